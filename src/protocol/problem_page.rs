//! The page that a browser shows in place of the JSON of a problem.

use http::header::{self, HeaderMap};
use http::{Method, StatusCode};

use super::RequestName;

/// Whether the client shows pages: a browser that navigates, and no program.
pub(crate) fn is_asked_for(method: &Method, headers: &HeaderMap) -> bool {
    let accepts = headers.get_all(header::ACCEPT).iter();
    let mut types = accepts.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let is_page = |range: &[u8]| {
        let mut parts = range.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let is_html = parts.next().is_some_and(|media| media.eq_ignore_ascii_case(b"text/html"));
        is_html && !parts.any(|parameter| matches!(parameter, b"q=0" | b"q=0.0" | b"q=0.00" | b"q=0.000"))
    };
    matches!(*method, Method::GET | Method::HEAD) && types.any(is_page)
}

/// The program that a page is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PageSource {
    Agent,
    #[cfg_attr(not(any(feature = "gateway", test)), expect(dead_code, reason = "there is none"))]
    Gateway,
}

/// The page, which needs nothing but itself.
pub(crate) fn page(
    source: PageSource,
    status: StatusCode,
    (code, text): (&str, &str),
    name: RequestName,
) -> String {
    let source = match source {
        PageSource::Agent => "the tunnel's agent",
        PageSource::Gateway => "the tunnel's gateway",
    };
    let title = format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or_default());
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n\
         <style>:root{{color-scheme:light dark}}body{{font:1.1rem/1.5 system-ui,sans-serif;max-width:36rem;\
         margin:15vh auto;padding:0 1.5rem}}small{{opacity:.7}}</style>\n\
         <h1>{title}</h1>\n<p>{}.</p>\n<p>{}</p>\n\
         <p><small>Said by {source}: {code}, request {name}</small></p>\n</html>\n",
        escaped(&capitalized(text)),
        what_to_do(code),
    )
}

/// A remedy for the owner of the tunnel, or for its visitor.
fn what_to_do(code: &str) -> &'static str {
    match code {
        "no_agent" | "agent_gone" => {
            "If this is your tunnel: is its agent running, and does its log say that it is connected? Else try again later."
        }
        "agent_error" => {
            "If this is your tunnel: is the server behind it running? The agent's log says what failed, in the line that ends \
             with the request's name."
        }
        "unreachable" | "unavailable" | "protocol" | "truncated" => {
            "If this is your tunnel: is the server behind it running? The agent's log says what failed."
        }
        "unauthorized" => "Load the page again, and give the name and the password that you were given.",
        "filtered" | "address_filtered" => "The owner of the tunnel decides which requests pass.",
        "rate_limited" | "queue_full" | "queue_timeout" | "draining" => "Try again in a moment.",
        "timeout" => "The server behind the tunnel may be slow, or stuck. Try again, or look into its log.",
        "which_tunnel" => "Each tunnel has a host name of its own, which its agent's log says.",
        _ => "Try again, or ask the owner of the tunnel.",
    }
}

fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_browser_gets_a_page_and_a_program_does_not() {
        let asked = |method: Method, accept: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            is_asked_for(&method, &headers)
        };
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8";
        assert!(asked(Method::GET, browser) && asked(Method::HEAD, "text/html;q=0.5"));
        assert!(!asked(Method::POST, browser));
        assert!(!asked(Method::GET, "*/*") && !asked(Method::GET, "application/json"));
        assert!(asked(Method::GET, "Text/HTML") && !asked(Method::GET, "application/json, text/html;q=0"));
        assert!(!asked(Method::GET, "x-text/html") && !is_asked_for(&Method::GET, &HeaderMap::new()));
    }

    #[test]
    fn what_an_agent_says_is_text_and_no_markup() {
        let name = RequestName { connection: 1, number: 2 };
        let text = "it said <script>alert(1)</script> & left";
        let page = page(PageSource::Gateway, StatusCode::BAD_GATEWAY, ("agent_error", text), name);
        assert!(page.contains("It said &lt;script&gt;alert(1)&lt;/script&gt; &amp; left."), "{page}");
        assert!(page.contains("<h1>502 Bad Gateway</h1>") && page.contains(&name.to_string()), "{page}");
    }
}
