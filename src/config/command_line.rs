//! The configuration of the flags `--listen`, `--proxy` and `--static`.

use std::fmt::Write;

/// What a path is served by.
pub enum Route<'f> {
    /// `--proxy PATH=UPSTREAM`: a port of this machine, an address or host with a port, a Unix socket, or a URL.
    Proxy { path: &'f str, upstream: &'f str },
    /// `--static PATH=DIRECTORY`
    Static { path: &'f str, directory: &'f str },
}

impl<'f> Route<'f> {
    pub fn parse_proxy(text: &'f str) -> Option<Self> {
        split(text).map(|(path, upstream)| Self::Proxy { path, upstream })
    }

    pub fn parse_static(text: &'f str) -> Option<Self> {
        split(text).map(|(path, directory)| Self::Static { path, directory })
    }
}

fn split(text: &str) -> Option<(&str, &str)> {
    text.split_once('=').filter(|(path, target)| path.starts_with('/') && !target.is_empty())
}

/// Returns the text of a configuration.
pub fn generate(listens: &[String], routes: &[Route<'_>]) -> String {
    let mut text = String::from("server {\n");
    for listen in listens {
        // `:8080` as many programs write a port.
        let _ = writeln!(text, "    listen {};", quote(listen.strip_prefix(':').unwrap_or(listen)));
    }
    for route in routes {
        match route {
            Route::Proxy { path, upstream } => write_proxy(path, upstream, &mut text),
            Route::Static { path, directory } => {
                // An alias replaces the path of the location.
                let directive = if *path == "/" { "root" } else { "alias" };
                let slash = if path.ends_with('/') && !directory.ends_with('/') && *path != "/" { "/" } else { "" };
                let directory = quote(&format!("{directory}{slash}"));
                let _ = write!(text, "\n    location {} {{\n        {directive} {directory};\n    }}\n", quote(path));
            }
        }
    }
    text.push_str("}\n");
    text
}

fn write_proxy(path: &str, upstream: &str, text: &mut String) {
    let is_https = upstream.starts_with("https://");
    let url = match upstream {
        port if port.bytes().all(|byte| byte.is_ascii_digit()) => format!("http://127.0.0.1:{port}"),
        url if is_https || url.starts_with("http://") => url.to_owned(),
        other => format!("http://{other}"),
    };
    // A site of another machine needs its own name; an application of this one, the name that the browser shows.
    let (host, sni) =
        if is_https { ("$proxy_host", "        proxy_ssl_server_name on;\n") } else { ("$http_host", "") };
    let _ = write!(
        text,
        "\n    location {} {{\n        proxy_pass {};\n{sni}        proxy_set_header Host {host};\n        \
         proxy_set_header X-Real-IP $remote_addr;\n        \
         proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n        \
         proxy_set_header X-Forwarded-Proto $scheme;\n    }}\n",
        quote(path),
        quote(&url)
    );
}

fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('$', ""))
}
