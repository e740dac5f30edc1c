//! The certificate authorities that a client trusts, as the file that holds them says now.

use std::sync::{Arc, RwLock};

use log::warn;

use super::tls::{self, ClientTls, TlsError, Trust};
use crate::sync::{read, write};

/// The authorities whose certificates are believed. Clones share them.
#[derive(Debug, Clone)]
pub struct TrustStore(Arc<Store>);

#[derive(Debug)]
struct Store {
    trust: Trust,
    /// What the file held, where there is one.
    current: RwLock<(Vec<u8>, ClientTls)>,
}

impl TrustStore {
    /// Reads them.
    pub fn open(trust: Trust) -> Result<Self, TlsError> {
        let content = content(&trust)?;
        let client = tls::client(&trust)?;
        Ok(TrustStore(Arc::new(Store { trust, current: RwLock::new((content, client)) })))
    }

    /// The rustls configuration of a connection.
    pub fn client(&self) -> ClientTls {
        read(&self.0.current).1.clone()
    }

    /// Reads them again, where they are in a file. One that cannot be used changes nothing.
    pub fn reload(&self) {
        let Store { trust, current } = &*self.0;
        let renewed = content(trust).and_then(|content| {
            let is_same = read(current).0 == content;
            // A client that goes on resumes its sessions.
            if is_same { Ok(None) } else { Ok(Some((content, tls::client(trust)?))) }
        });
        match renewed {
            Ok(Some(renewed)) => {
                *write(current) = renewed;
            }
            Ok(None) => {}
            Err(why) => warn!("the certificate authorities stay as they were: {why}"),
        }
    }
}

/// What the file holds, where there is one.
fn content(trust: &Trust) -> Result<Vec<u8>, TlsError> {
    let Trust::File(path) = trust else { return Ok(Vec::new()) };
    std::fs::read(path).map_err(|error| TlsError::File { path: path.clone(), reason: error.to_string() })
}
