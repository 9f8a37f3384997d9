//! What is logged when a tunnel or a detached response ends. Rendered while the exchange was there, since the tunnel or
//! response outlives it.

use std::sync::Arc;

use crate::config::{ErrorLog, Level};
use crate::request::exchange::Exchange;
use crate::request::limit_zones::{ConnGuard, LimitZones};
use crate::request::log::{self, LineKind, PendingLine, Totals};
use crate::runtime::executor::{self, Millis};
use crate::runtime::handover::{HandoverDecoder, HandoverEncoder};

pub struct LogOnEnd {
    lines: Box<[PendingLine]>,
    error_log: Arc<[ErrorLog]>,
    /// What follows a message in the error log.
    error_context: Box<str>,
    connection: u32,
    head_bytes: u64,
    began: Millis,
    /// The `limit_conn` slots of the request, released at the end.
    conn_guards: Box<[ConnGuard]>,
}

impl LogOnEnd {
    /// `None` if there is nothing to log or to release. `level`: that of the most severe message.
    pub fn new(exchange: &mut Exchange, kind: LineKind, level: Level) -> Option<Box<Self>> {
        let conn_guards = std::mem::take(&mut exchange.limits.conn_guards).into_boxed_slice();
        let lines = log::pending_lines(exchange, kind);
        let error_log = exchange.settings().error_log.clone();
        let logs_errors = log::is_enabled(&error_log, level);
        if lines.is_empty() && conn_guards.is_empty() && !logs_errors {
            return None;
        }
        Some(Box::new(Self {
            lines,
            error_log,
            error_context: if logs_errors { log::request_context(exchange).into() } else { Box::default() },
            connection: exchange.client.number,
            head_bytes: exchange.response.head_bytes,
            began: exchange.began,
            conn_guards,
        }))
    }

    pub fn head_bytes(&self) -> u64 {
        self.head_bytes
    }

    /// `bytes` were sent to the client, including the head.
    pub fn write(&self, bytes: u64, complete: bool, message: Option<(Level, &str)>) {
        if let Some((level, text)) = message {
            log::write_error(
                &self.error_log,
                level,
                Some(self.connection),
                format_args!("{text}"),
                &self.error_context,
            );
        }
        let totals =
            Totals { bytes, head_bytes: self.head_bytes, millis: executor::now().saturating_sub(self.began), complete };
        self.lines.iter().for_each(|line| line.write(&totals));
    }

    /// Encodes it for the new binary, with `limit_conn` slots by the name of their zone.
    pub fn encode(&self, encoder: &mut HandoverEncoder, zones: &LimitZones) {
        let mut slots = Vec::new();
        for guard in &self.conn_guards {
            slots.extend(zones.zone_name(guard.zone()).map(|zone| (zone, guard.key())));
        }
        encoder.u64(slots.len() as u64);
        for (zone, key) in &slots {
            encoder.string(zone);
            encoder.bytes(key);
        }
        encoder.u64(self.lines.len() as u64);
        self.lines.iter().for_each(|line| line.encode(encoder));
        encoder.u64(self.connection.into());
        encoder.bytes(self.error_context.as_bytes());
        encoder.u64(self.head_bytes);
        encoder.u64(executor::now().saturating_sub(self.began));
    }

    /// Decodes what [`LogOnEnd::encode`] wrote.
    pub fn decode(decoder: &mut HandoverDecoder, zones: &LimitZones, error_log: Arc<[ErrorLog]>) -> Option<Box<Self>> {
        let mut conn_guards = Vec::new();
        for _ in 0..decoder.u64()? {
            let (zone, key) = (decoder.string()?, decoder.bytes()?);
            // It was admitted by the old binary: the limit may be lower now.
            conn_guards.extend(zones.connection_zone_named(&zone).and_then(|zone| zone.acquire(&key, u32::MAX).ok()));
        }
        let mut lines = Vec::new();
        for _ in 0..decoder.u64()? {
            lines.push(PendingLine::decode(decoder)?);
        }
        Some(Box::new(Self {
            lines: lines.into(),
            conn_guards: conn_guards.into(),
            error_log,
            connection: u32::try_from(decoder.u64()?).ok()?,
            error_context: decoder.string()?.into(),
            head_bytes: decoder.u64()?,
            began: executor::now().saturating_sub(decoder.u64()?),
        }))
    }
}
