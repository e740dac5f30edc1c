//! The table of options.

use std::path::Path;

use super::{
    AgentOption, accept_any, add_passwords, add_route, add_rule, file, gateway_url, health_path, local_url,
    one_of, option, own_text, parsed, proxies, push, put, put_some, read_token, switch, token, tunnel_id_in,
    unreadable,
};
use crate::agent::addresses;
#[cfg(feature = "inspect")]
use crate::agent::parts::InspectorPage;
use crate::agent::parts::{TokenOption, UpgradeHeadersOption};
use crate::agent::values::{count, duration, number, size};
use crate::guard::{Action, CorsCredentials};
use crate::http1::header_name;
use crate::link::UpgradeHeaders;
use crate::link::secret::{SecretFile, read_secret};
use crate::net::tls::Trust;
use crate::session::{Correlation, FailureReply, ServerTiming};
use crate::upstream::{SiteNames, UpstreamAddress};

/// The options, in the order in which a help text lists them.
pub(crate) static OPTIONS: &[AgentOption] = &[
    option(
        "tunnel_id",
        "ID",
        "which tunnel to serve: agent_{uuid}_{purpose}; default with ADDRESS: one of yours",
        |builder, text| put(&mut builder.tunnel_id, parsed(text)),
    )
    .secret(),
    option("tunnel_id_file", "FILE", "file with the tunnel ID; default none", |builder, text| {
        put(&mut builder.tunnel_id, tunnel_id_in(Path::new(text)))
    })
    .secret_file()
    .part_of("tunnel_id"),
    option(
        "gateway",
        "URL",
        "a gateway; without a path, /ws; may be repeated; default ws://127.0.0.1:3000/ws",
        |builder, text| push(&mut builder.gateways, gateway_url(text)),
    )
    .repeats(),
    option(
        "name",
        "NAME",
        "the name for its host name, such as shop; default from the ID",
        |builder, text| put_some(&mut builder.name, parsed(text)),
    ),
    option("connections", "N", "sessions with each gateway; default 1", |builder, text| {
        put(&mut builder.sessions_per_gateway, own_text(number(text)))
    }),
    option("token_file", "FILE", "file with the token for the gateway; default none", |builder, text| {
        own_text(read_token(text))?;
        put_some(&mut builder.token, Ok(TokenOption::File(text.into())))
    })
    .secret_file()
    .part_of("token"),
    option(
        "upgrade_headers_file",
        "FILE",
        "file with headers for an access gateway before the gateway, a line each",
        |builder, text| {
            own_text(UpgradeHeaders::from_file(Path::new(text)).map_err(|error| unreadable(text, &error)))?;
            put_some(&mut builder.upgrade_headers, Ok(UpgradeHeadersOption::File(text.into())))
        },
    )
    .secret_file()
    .part_of("upgrade_headers"),
    option("upgrade_headers", "", "such lines themselves", |builder, text| {
        put_some(&mut builder.upgrade_headers, parsed(text).map(UpgradeHeadersOption::Value))
    })
    .secret(),
    option(
        "proxy",
        "URL",
        "on the way to gateways, http://… or socks5://…; none for none; default HTTPS_PROXY, ALL_PROXY, NO_PROXY",
        |builder, text| put(&mut builder.proxies, proxies(text)),
    ),
    option("token", "", "the token itself; never on the command line", |builder, text| {
        put_some(&mut builder.token, token(text).map(TokenOption::Value))
    })
    .secret(),
    option(
        "local",
        "URL",
        "the local server, unix:/PATH for a Unix socket, or auto to find one; repeated, one more for when it cannot be reached; default \
         http://127.0.0.1:8000",
        |builder, text| {
            let address = match text {
                "auto" => UpstreamAddress::Auto,
                text => UpstreamAddress::Url(local_url(text)?),
            };
            builder.add_server(String::new(), address);
            Ok(())
        },
    )
    .repeats(),
    option("route", "PREFIX=URL", "another local server for the paths under it; may be repeated", add_route)
        .repeats(),
    option(
        "set_header",
        "HEADER",
        "'Name: value' for requests to the local server; may be repeated",
        |builder, text| push(&mut builder.rewrite.set, parsed(text)),
    )
    .repeats(),
    option("remove_header", "NAME", "removes it from them; may be repeated", |builder, text| {
        push(&mut builder.rewrite.remove, own_text(header_name(text)))
    })
    .repeats(),
    option(
        "host_header",
        "HOST",
        "Host header for the local server; default the request's own",
        |builder, text| put_some(&mut builder.host_header, parsed(text)),
    ),
    option("no_rewrite", "", "with it, leaves Origin, redirects and cookies as they are", |builder, text| {
        let (kept, translated) = (SiteNames::Kept, SiteNames::Translated);
        put(&mut builder.site_names, switch(text).map(|is_on| if is_on { kept } else { translated }))
    }),
    option(
        "set_response_header",
        "HEADER",
        "'Name: value' for responses of the local server; may be repeated",
        |builder, text| push(&mut builder.response_rewrite.set, parsed(text)),
    )
    .repeats(),
    option("remove_response_header", "NAME", "removes it from them; may be repeated", |builder, text| {
        push(&mut builder.response_rewrite.remove, own_text(header_name(text)))
    })
    .repeats(),
    option(
        "workers",
        "N",
        "requests answered side by side, but for those that last; default 16",
        |builder, text| put_some(&mut builder.process.workers, own_text(number(text))),
    )
    .of_agent(),
    option("max_streams", "N", "the same with streams that last; default 256", |builder, text| {
        put_some(&mut builder.process.max_streams, own_text(number(text)))
    })
    .of_agent(),
    option(
        "max_in_flight",
        "N",
        "requests answered at once, of any kind; default no limit",
        |builder, text| put_some(&mut builder.process.max_in_flight, own_text(number(text))),
    )
    .of_agent(),
    option("queue", "N", "requests that may wait for a worker; default 256", |builder, text| {
        put(&mut builder.process.queue, own_text(number(text)))
    })
    .of_agent(),
    option("queue_timeout", "TIME", "how long they may wait; default 10s", |builder, text| {
        put(&mut builder.process.queue_timeout, own_text(duration(text)))
    })
    .of_agent(),
    option("allow_ip", "CIDR", "the only addresses whose visitors pass; may be repeated", |builder, text| {
        push(&mut builder.addresses.allow, parsed(text))
    })
    .repeats(),
    option("deny_ip", "CIDR", "addresses whose visitors do not pass; may be repeated", |builder, text| {
        push(&mut builder.addresses.deny, parsed(text))
    })
    .repeats(),
    option("basic_auth", "FILE", "file with lines user:password that visitors must show", |builder, text| {
        let lines = read_secret(Path::new(text)).map_err(|error| unreadable(text, &error))?;
        add_passwords(builder, &lines)
    })
    .secret_file(),
    option("password", "", "such lines themselves", add_passwords).repeats().secret().part_of("basic_auth"),
    option(
        "open",
        "RULE",
        "what needs no password: [METHOD[,METHOD…] ]/PATH; may be repeated",
        |builder, text| push(&mut builder.open, parsed(text)),
    )
    .repeats(),
    option(
        "allow",
        "RULE",
        "lets requests pass: [METHOD[,METHOD…] ]/PATH with * and **; may be repeated",
        |builder, text| add_rule(builder, Action::Allow, text),
    )
    .repeats()
    .part_of("rule"),
    option(
        "deny",
        "RULE",
        "refuses requests with 403; the first rule that matches decides",
        |builder, text| add_rule(builder, Action::Deny, text),
    )
    .repeats()
    .part_of("rule"),
    option("rule", "", "rules, one a line, each `allow RULE` or `deny RULE`", |builder, text| {
        builder.rules.push(parsed(text)?);
        Ok(())
    })
    .repeats(),
    option(
        "cors",
        "ORIGIN",
        "lets its pages read responses, such as https://app.example",
        |builder, text| put_some(&mut builder.cors, parsed(text)),
    ),
    option("cors_credentials", "", "lets them send cookies and passwords along", |builder, text| {
        let (allow, omit) = (CorsCredentials::Allow, CorsCredentials::Omit);
        put(&mut builder.cors_credentials, switch(text).map(|is_on| if is_on { allow } else { omit }))
    }),
    option("rate", "RATE", "requests that pass, such as 100/s or 30/m; default no limit", |builder, text| {
        put_some(&mut builder.rate, parsed(text))
    }),
    option("burst", "N", "requests at once after a pause; default those of a second", |builder, text| {
        put_some(&mut builder.burst, own_text(count(text)))
    }),
    option("rate_wait", "TIME", "how long a request may wait for the rate; default 0s", |builder, text| {
        put(&mut builder.rate_wait, own_text(duration(text)))
    }),
    option("connect_timeout", "TIME", "for connecting, to either side; default 5s", |builder, text| {
        put(&mut builder.timeouts.connect, own_text(duration(text)))
    }),
    option("response_timeout", "TIME", "until the local answer begins; default 30s", |builder, text| {
        put(&mut builder.timeouts.response, own_text(duration(text)))
    }),
    option("idle_timeout", "TIME", "between two bytes of the local answer; default 30s", |builder, text| {
        put(&mut builder.timeouts.idle, own_text(duration(text)))
    }),
    option("ping_interval", "TIME", "between two pings to the gateway; default 15s", |builder, text| {
        put(&mut builder.heartbeat.ping_interval, own_text(duration(text)))
    }),
    option(
        "pong_timeout",
        "TIME",
        "further silence before it counts as gone; default 10s",
        |builder, text| put(&mut builder.heartbeat.pong_timeout, own_text(duration(text))),
    ),
    option(
        "breaker_failures",
        "N",
        "in a row, then answers at once; 0 for never; default 5",
        |builder, text| put(&mut builder.breaker.failures, own_text(count(text))),
    ),
    option(
        "breaker_open",
        "TIME",
        "until the local server is tried again; doubles; default 1s",
        |builder, text| put(&mut builder.breaker.open, own_text(duration(text))),
    ),
    option("health_path", "PATH", "checks the local server there; default no checks", |builder, text| {
        put_some(&mut builder.health_path, health_path(text))
    }),
    option("health_interval", "TIME", "between two checks; default 10s", |builder, text| {
        put_some(&mut builder.health_interval, own_text(duration(text)))
    }),
    option(
        "failure",
        "RULE",
        "failures to forward as `error` or as `response`; default error",
        |builder, text| {
            let choices = [("error", FailureReply::Error), ("response", FailureReply::Response)];
            put(&mut builder.failure_reply, one_of(text, &choices))
        },
    ),
    option("server_timing", "", "tells pages in Server-Timing how long responses took", |builder, text| {
        let (on, off) = (ServerTiming::On, ServerTiming::Off);
        put(&mut builder.server_timing, switch(text).map(|is_on| if is_on { on } else { off }))
    }),
    option("max_retries", "N", "tries after a first failure; 0 for no end; default 10", |builder, text| {
        put(&mut builder.backoff.max_retries, own_text(count(text)))
    }),
    option("backoff_min", "TIME", "first delay between tries; default 1s", |builder, text| {
        put(&mut builder.backoff.min, own_text(duration(text)))
    }),
    option("backoff_max", "TIME", "longest delay between tries; default 30s", |builder, text| {
        put(&mut builder.backoff.max, own_text(duration(text)))
    }),
    option(
        "drain",
        "TIME",
        "for finishing what runs, when told to stop or the gateway goes; default 10s",
        |builder, text| put(&mut builder.handover_drain, own_text(duration(text))),
    )
    .of_agent(),
    option(
        "max_message",
        "SIZE",
        "largest message, either way; at least 80KiB; default 16MiB",
        |builder, text| put(&mut builder.max_message, own_text(size(text))),
    ),
    option("max_body", "SIZE", "largest body, either way, without mux/2; default 10MiB", |builder, text| {
        put(&mut builder.max_enveloped_body, own_text(size(text)))
    }),
    option("max_stream_body", "SIZE", "the same with mux/2; default no limit", |builder, text| {
        put_some(&mut builder.max_streamed_body, own_text(size(text)).map(|bytes| bytes as u64))
    }),
    option(
        "correlation",
        "RULE",
        "order, or latest for gateways with one waiting slot and no others; default order",
        |builder, text| {
            let choices = [("order", Correlation::Order), ("latest", Correlation::Latest)];
            put(&mut builder.correlation, one_of(text, &choices))
        },
    ),
    option(
        "ca_file",
        "FILE",
        "PEM file with the only authorities trusted for the gateway",
        |builder, text| put(&mut builder.gateway_trust, Ok(Trust::File(text.into()))),
    )
    .part_of("gateway_trust"),
    option("local_ca_file", "FILE", "the same for the local server", |builder, text| {
        put(&mut builder.local_trust, Ok(Trust::File(text.into())))
    })
    .part_of("local_trust"),
    option(
        "client_cert",
        "FILE",
        "PEM file with the certificate chain that is shown to gateways which ask for one",
        |builder, text| {
            put(&mut builder.client_identity.get_or_insert_default().certificates, file(text))
        },
    ),
    option("client_key", "FILE", "PEM file with its private key", |builder, text| {
        put(&mut builder.client_identity.get_or_insert_default().key, file(text))
    })
    .secret_file(),
    option("insecure", "", "do not verify the gateway's certificate", |builder, text| {
        accept_any(&mut builder.gateway_trust, text)
    })
    .part_of("gateway_trust"),
    option("local_insecure", "", "do not verify the local server's certificate", |builder, text| {
        accept_any(&mut builder.local_trust, text)
    })
    .part_of("local_trust"),
    option(
        "admin",
        "ADDRESS",
        "tells how it is doing, such as at 127.0.0.1:9180; default nowhere",
        |builder, text| put_some(&mut builder.process.admin, own_text(addresses::listen(text))),
    )
    .of_agent(),
    #[cfg(feature = "inspect")]
    option("inspect", "", "records requests, and shows them as a page; default off", |builder, text| {
        let (shown, hidden) = (InspectorPage::Shown, InspectorPage::Hidden);
        put(&mut builder.process.inspection.page, switch(text).map(|is_on| if is_on { shown } else { hidden }))
    })
    .of_agent(),
    #[cfg(feature = "inspect")]
    option("inspect_memory", "SIZE", "for all that is recorded; default 16MiB", |builder, text| {
        put(&mut builder.process.inspection.config.memory, own_text(size(text)))
    })
    .of_agent(),
    #[cfg(feature = "inspect")]
    option("inspect_body", "SIZE", "of each body that is kept; default 64KiB", |builder, text| {
        put(&mut builder.process.inspection.config.body, own_text(size(text)))
    })
    .of_agent(),
    #[cfg(feature = "inspect")]
    option("inspect_hide", "NAME", "header whose value is not recorded, as of Cookie", |builder, text| {
        push(&mut builder.process.inspection.config.hidden, parsed(text))
    })
    .of_agent()
    .repeats(),
    option(
        "admin_token_file",
        "FILE",
        "file with the token that this wants; default none",
        |builder, text| put_some(&mut builder.process.admin_token, own_text(read_token(text))),
    )
    .secret_file()
    .of_agent()
    .part_of("admin_token"),
    option("admin_token", "", "the token itself", |builder, text| {
        put_some(&mut builder.process.admin_token, token(text))
    })
    .of_agent()
    .secret(),
];
