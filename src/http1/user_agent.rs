//! Detects old browsers by `User-Agent`, as nginx does (ngx_http_process_user_agent).

/// Whether it is Internet Explorer 4, 5 or 6, except the one of Windows XP SP2, which announces `SV1`.
pub fn is_msie6(agent: &[u8]) -> bool {
    let Some(version) = msie_version(agent) else { return false };
    match version {
        [b'4' | b'5', b'.', ..] => true,
        [b'6', b'.', _, rest @ ..] => find(rest, b"SV1").is_none(),
        _ => false,
    }
}

/// Whether it is Safari on macOS.
pub fn is_safari(agent: &[u8]) -> bool {
    let contains = |word: &[u8]| find(agent, word).is_some();
    let is_other = msie_version(agent).is_some() || contains(b"Opera") || contains(b"Gecko/") || contains(b"Chrome/");
    !is_other && contains(b"Safari/") && contains(b"Mac OS X")
}

/// Returns the text after `MSIE `; none for Opera, which claims to be MSIE.
fn msie_version(agent: &[u8]) -> Option<&[u8]> {
    let version = agent.get(find(agent, b"MSIE ")? + 5..)?;
    (version.len() > 2 && find(agent, b"Opera").is_none()).then_some(version)
}

fn find(text: &[u8], word: &[u8]) -> Option<usize> {
    text.windows(word.len()).position(|part| part == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_are_detected_by_their_names() {
        let safari = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15) AppleWebKit/605.1.15 (KHTML, like Gecko)";
        for (agent, msie6, on_macos) in [
            ("Mozilla/4.0 (compatible; MSIE 6.0; Windows NT 5.1)", true, false),
            ("Mozilla/4.0 (compatible; MSIE 6.0; Windows NT 5.1; SV1)", false, false),
            ("Mozilla/4.0 (SV1; compatible; MSIE 6.0; Windows NT 5.1)", true, false),
            ("Mozilla/4.0 (compatible; MSIE 5.5; Windows 98)", true, false),
            ("Mozilla/4.0 (compatible; MSIE 4.01; Windows 98; SV1)", true, false),
            ("Mozilla/4.0 (compatible; MSIE 7.0; Windows NT 6.0)", false, false),
            ("Mozilla/4.0 (compatible; MSIE 6.0; X11; Linux i686) Opera 8.5", false, false),
            ("MSIE ", false, false),
            ("MSIE 6.", false, false),
            ("MSIE 6.0", true, false),
            (&format!("{safari} Version/17.0 Safari/605.1.15"), false, true),
            (&format!("{safari} Version/17.0"), false, false),
            (&format!("{safari} Chrome/120.0.0.0 Safari/537.36"), false, false),
            (&format!("{safari} Gecko/20100101 Safari/605.1.15"), false, false),
            (&format!("{safari} Safari/605.1.15 Opera 9"), false, false),
            (&format!("{safari} Safari/605.1.15 MSIE 7.0"), false, false),
            ("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/605.1.15 Version/17.0 Safari/605.1.15", false, false),
            ("", false, false),
        ] {
            assert_eq!((is_msie6(agent.as_bytes()), is_safari(agent.as_bytes())), (msie6, on_macos), "{agent}");
        }
    }
}
