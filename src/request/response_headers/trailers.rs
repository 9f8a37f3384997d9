//! Trailers of a response (`add_trailer`), which need the chunked coding (RFC 9112 7.1.2).

use crate::http1::head::{self, write_header};
use crate::request::exchange::Exchange;
use crate::request::{response_headers, variables};

/// Whether a response with this status gets trailers.
pub fn is_expected(exchange: &Exchange, status: u16) -> bool {
    let trailers = &exchange.settings().optional.trailers;
    let has_body = exchange.request.method() != b"HEAD" && !head::is_bodyless(status);
    let applies = || trailers.iter().any(|trailer| trailer.always || response_headers::is_add_header_status(status));
    !trailers.is_empty() && has_body && exchange.accepts_chunked() && applies()
}

/// Returns the last chunk with the trailers. The value of a trailer may use the ones before it.
pub fn last_chunk(exchange: &mut Exchange) -> Vec<u8> {
    let applies_to_status = response_headers::is_add_header_status(exchange.response.status);
    let rare = exchange.settings().optional.clone();
    for trailer in rare.trailers.iter().filter(|trailer| trailer.always || applies_to_status) {
        let value = variables::value(&trailer.value, exchange);
        if !value.is_empty() {
            write_header(&trailer.name, &value, &mut exchange.response.trailers);
        }
    }
    [b"0\r\n", &exchange.response.trailers[..], b"\r\n"].concat()
}
