//! Under which names the listener is asked.
//!
//! A page in somebody's browser may ask any address on the browser's network for the page's own name, once that name leads
//! there (DNS rebinding), and read the answer. It can't choose the name in `Host`.

use std::net::IpAddr;

use axum::http::header::HOST;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, Uri, Version};
use axum::response::{IntoResponse, Response};

use crate::config::HttpConfig;

/// The names and addresses of the listener.
#[derive(Clone, Debug)]
pub struct Hosts {
    listen: IpAddr,
    names: Vec<String>,
}

/// Why a request is not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misdirected {
    /// It does not say whom it is for, or says it twice (RFC 9112 section 3.2).
    Malformed,
    /// It is for somebody else.
    Other(String),
}

impl IntoResponse for Misdirected {
    fn into_response(self) -> Response {
        match self {
            Self::Malformed => {
                (StatusCode::BAD_REQUEST, "one Host is needed\n".to_owned()).into_response()
            }
            Self::Other(host) => (
                StatusCode::MISDIRECTED_REQUEST,
                format!("nothing is served as {host}; if it should be, add it to httpHost\n"),
            )
                .into_response(),
        }
    }
}

impl Hosts {
    /// Those of this configuration.
    pub fn new(config: &HttpConfig) -> Self {
        Self {
            listen: IpAddr::V4(*config.listen.ip()),
            names: config.hosts.clone(),
        }
    }

    /// Whether a request that came in at the address `local` is for us. Which port it names does not matter: there may be a
    /// forwarding in between.
    ///
    /// # Errors
    /// When it is for somebody else.
    pub fn check(
        &self,
        version: Version,
        uri: &Uri,
        headers: &HeaderMap,
        local: IpAddr,
    ) -> Result<(), Misdirected> {
        let mut hosts = headers.get_all(HOST).iter();
        let host = match (hosts.next(), hosts.next()) {
            (Some(host), None) => {
                let authority = Authority::try_from(host.as_bytes());
                Some(authority.map_err(|_| Misdirected::Malformed)?)
            }
            // No browser speaks it.
            (None, None) if version < Version::HTTP_11 => None,
            _ => return Err(Misdirected::Malformed),
        };
        for authority in host.iter().chain(uri.authority()) {
            if !self.has(authority.host(), local.to_canonical()) {
                return Err(Misdirected::Other(authority.to_string()));
            }
        }
        Ok(())
    }

    fn has(&self, host: &str, local: IpAddr) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        if self.names.contains(&host) || host == "localhost" {
            return true;
        }
        let address = host.trim_start_matches('[').trim_end_matches(']').parse();
        address.is_ok_and(|address: IpAddr| {
            let address = address.to_canonical();
            address.is_loopback() || address == local || address == self.listen
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(request: &str) -> Result<(), Misdirected> {
        let config = HttpConfig {
            listen: "0.0.0.0:9530".parse().unwrap(),
            hosts: vec!["node-30.example".to_owned(), "10.96.7.7".to_owned()],
        };
        let mut words = request.split(' ');
        let uri = words.next().unwrap().parse().unwrap();
        let mut headers = HeaderMap::new();
        for host in words {
            headers.append(HOST, host.parse().unwrap());
        }
        let local = IpAddr::from([10, 60, 20, 30]);
        Hosts::new(&config).check(Version::HTTP_11, &uri, &headers, local)
    }

    #[test]
    fn addresses_of_the_listener_and_configured_names_are_ours() {
        for host in [
            // What the kubelet and Prometheus send.
            "10.60.20.30:9530",
            "10.60.20.30",
            // Through a forwarding.
            "localhost:8080",
            "127.0.0.1:9530",
            "127.0.0.53",
            "[::1]:9530",
            "LocalHost.",
            "node-30.example:9530",
            "Node-30.Example.",
            "10.96.7.7",
        ] {
            assert_eq!(check(&format!("/metrics {host}")), Ok(()), "{host}");
        }
        assert_eq!(check("http://10.60.20.30:9530/metrics localhost"), Ok(()));
    }

    #[test]
    fn other_names_and_addresses_are_not() {
        for host in [
            "evil.example",
            "evil.example:9530",
            "10.60.20.30.evil.example",
            "node-30.example.evil.example",
            "localhost.evil.example",
            "192.0.2.1:9530",
            "0.0.0.1",
        ] {
            let other = Misdirected::Other(host.to_owned());
            assert_eq!(check(&format!("/ {host}")), Err(other), "{host}");
        }
    }

    #[test]
    fn the_name_in_the_request_line_counts_too() {
        let other = Misdirected::Other("evil.example".to_owned());
        assert_eq!(check("http://evil.example/metrics localhost"), Err(other));
    }

    #[test]
    fn exactly_one_host_is_needed() {
        for request in ["/", "/ localhost localhost", "/ ", "/ local/host"] {
            assert_eq!(check(request), Err(Misdirected::Malformed), "{request}");
        }
        let config = HttpConfig {
            listen: "127.0.0.1:9530".parse().unwrap(),
            hosts: Vec::new(),
        };
        let (uri, headers) = (Uri::from_static("/"), HeaderMap::new());
        let local = IpAddr::from([127, 0, 0, 1]);
        let old = Hosts::new(&config).check(Version::HTTP_10, &uri, &headers, local);
        assert_eq!(old, Ok(()));
    }
}
