//! What browsers meet, with the real binaries: pages of other origins, a site with a `Host` of its own, headers of
//! responses, refusals as pages.

use std::net::SocketAddr;

use crate::support::{Program, TUNNEL_ID, http, serve_http};

/// Asks as a browser does; the response, in lower case but for its body.
fn ask(gateway: SocketAddr, line: &str, fields: &str) -> (String, String) {
    let request = format!("{line} HTTP/1.1\r\nHost: shop.example\r\n{fields}Connection: close\r\n\r\n");
    let response = String::from_utf8(http(gateway, request.as_bytes())).unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    (head.to_ascii_lowercase(), body.to_owned())
}

/// An agent of a site that shows each request's head, with these fields in its response.
fn site(fields: &'static str, options: &[&str]) -> (Program, Program, SocketAddr, SocketAddr) {
    let local = serve_http(move |request| {
        let (head, length) = (&request.head, request.head.len());
        format!("HTTP/1.1 302 Found\r\nContent-Length: {length}\r\n{fields}\r\n{head}").into_bytes()
    });
    let (gateway, address) = Program::gateway(&["--hold", "0s"]);
    let (url, local_url) = (format!("ws://{address}"), format!("http://{local}"));
    let usual = ["--tunnel-id", TUNNEL_ID, "--gateway", &url, "--local", &local_url];
    let mut agent = Program::agent(&[&usual, options].concat());
    agent.wait_for(" is open → ");
    (gateway, agent, address, local)
}

#[test]
fn pages_of_one_other_origin_may_read_responses() {
    let folder = std::env::temp_dir().join(format!("cors-{}", std::process::id()));
    std::fs::write(&folder, "ann:word\n").unwrap();
    let options =
        ["--cors", "https://app.example", "--basic-auth", folder.to_str().unwrap(), "--deny", "/secret"];
    let fields = "Access-Control-Allow-Origin: *\r\nVary: Accept\r\n";
    let (_gateway, mut agent, address, _) = site(fields, &options);
    std::fs::remove_file(&folder).unwrap();
    let own = "Origin: https://app.example\r\n";
    let asked = "Access-Control-Request-Method: PUT\r\nAccess-Control-Request-Headers: authorization\r\n";
    // The agent answers a preflight, which has no password and meets no rule.
    for path in ["/x", "/secret"] {
        let (head, _) = ask(address, &format!("OPTIONS {path}"), &format!("{own}{asked}"));
        assert!(head.starts_with("http/1.1 204"), "{head}");
        for field in [
            "access-control-allow-origin: https://app.example",
            "access-control-allow-methods: put",
            "access-control-allow-headers: authorization",
            "vary: origin",
        ] {
            assert!(head.contains(field), "{field} in {head}");
        }
        assert!(!head.contains("credentials"), "{head}");
    }
    // A response, and a refusal, which a page could not tell from a broken connection otherwise.
    let password = "Authorization: Basic YW5uOndvcmQ=\r\n";
    for (path, fields, status) in [("/x", password, "302"), ("/secret", password, "403"), ("/x", "", "401")] {
        let (head, _) = ask(address, &format!("GET {path}"), &format!("{own}{fields}"));
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{head}");
        assert_eq!(head.matches("access-control-allow-origin").count(), 1, "{head}");
        assert!(head.contains("access-control-allow-origin: https://app.example"), "{head}");
        assert!(head.contains("vary: origin"), "{head}");
    }
    // Another origin is told nothing, and its preflight is a request like any other.
    let foreign = "Origin: https://evil.example\r\n";
    let (head, _) = ask(address, "GET /x", &format!("{foreign}{password}"));
    assert!(!head.contains("access-control-allow") && head.contains("vary: origin"), "{head}");
    let (head, _) = ask(address, "OPTIONS /x", &format!("{foreign}{asked}"));
    assert!(head.starts_with("http/1.1 401"), "{head}");
    agent.signal("TERM");
    assert!(agent.wait().success());
}

#[test]
fn credentials_pass_only_when_that_is_said() {
    let options = ["--cors", "https://app.example", "--cors-credentials"];
    let (_gateway, _agent, address, _) = site("", &options);
    let (head, _) = ask(address, "GET /x", "Origin: https://app.example\r\n");
    assert!(head.contains("access-control-allow-credentials: true"), "{head}");
}

#[test]
fn a_server_with_a_host_of_its_own_sees_its_own_pages_and_visitors_theirs() {
    let fields = "Location: http://app.test/login?next=/\r\nSet-Cookie: a=1; Domain=app.test; Path=/\r\n\
                  Refresh: 3; url=http://app.test/x\r\nContent-Location: http://app.test/y\r\n";
    let (_gateway, _agent, address, _) = site(fields, &["--host-header", "app.test"]);
    let (head, body) = ask(
        address,
        "POST /form",
        "Origin: http://shop.example\r\nReferer: http://shop.example/form?a\r\nContent-Length: 0\r\n",
    );
    for field in ["host: app.test", "origin: http://app.test\r", "referer: http://app.test/form?a\r"] {
        assert!(body.to_ascii_lowercase().contains(field), "{field} in {body}");
    }
    for field in [
        "location: http://shop.example/login?next=/",
        "set-cookie: a=1; path=/",
        "refresh: 3; url=http://shop.example/x",
        "content-location: http://shop.example/y",
    ] {
        assert!(head.contains(field), "{field} in {head}");
    }
    // A foreign page stays one.
    for foreign in ["https://shop.example", "http://evil.example", "null"] {
        let (_, body) = ask(address, "GET /form", &format!("Origin: {foreign}\r\n"));
        assert!(body.to_ascii_lowercase().contains(&format!("origin: {foreign}\r")), "{body}");
    }
}

#[test]
fn what_names_the_site_stays_where_that_is_said() {
    let fields = "Location: http://app.test/\r\n";
    let (_gateway, _agent, address, _) = site(fields, &["--host-header", "app.test", "--no-rewrite"]);
    let (head, body) = ask(address, "GET /", "Origin: http://shop.example\r\n");
    assert!(head.contains("location: http://app.test/"), "{head}");
    assert!(body.to_ascii_lowercase().contains("origin: http://shop.example\r"), "{body}");
}

#[test]
fn headers_of_responses_are_set_and_removed() {
    let options = ["--set-response-header", "X-Robots-Tag: noindex", "--remove-response-header", "server"];
    let (_gateway, _agent, address, _) = site("Server: secret/1.0\r\nX-Robots-Tag: all\r\n", &options);
    let (head, _) = ask(address, "GET /", "");
    assert!(head.contains("x-robots-tag: noindex") && !head.contains("all"), "{head}");
    assert!(!head.contains("secret/1.0"), "{head}");
}

#[test]
fn a_browser_gets_a_page_for_a_refusal_and_a_program_json() {
    let (_gateway, _agent, address, _) = site("", &["--deny", "/secret"]);
    let (head, page) = ask(address, "GET /secret", "Accept: text/html,*/*;q=0.8\r\n");
    assert!(head.starts_with("http/1.1 403") && head.contains("content-type: text/html"), "{head}");
    assert!(head.contains("x-tunnel-source: agent") && head.contains("cache-control: no-store"), "{head}");
    assert!(
        page.contains("<h1>403 Forbidden</h1>") && page.contains("does not let this request pass"),
        "{page}"
    );
    let (head, json) = ask(address, "GET /secret", "Accept: */*\r\n");
    assert!(head.contains("content-type: application/json"), "{head}");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap()["code"], "filtered");
}
