//! The certificate authorities that a client trusts, and its own certificate, as the files that hold them say now.

use std::path::PathBuf;
use std::sync::{Arc, RwLock};

use log::warn;

use super::tls::{self, ClientIdentity, ClientTls, TlsError, Trust};
use crate::sync::{read, write};

/// The contents of the files: of the authorities, of the certificate and of its key.
type FileContents = Vec<Vec<u8>>;

/// The authorities whose certificates are believed, and the certificate that is shown, if there is one. Clones share them.
#[derive(Debug, Clone)]
pub struct TrustStore(Arc<Store>);

#[derive(Debug)]
struct Store {
    trust: Trust,
    identity: Option<ClientIdentity>,
    /// The contents of the files when they were read, and the configuration made of them.
    current: RwLock<(FileContents, ClientTls)>,
}

impl TrustStore {
    /// Reads them.
    pub fn open(trust: Trust, identity: Option<ClientIdentity>) -> Result<Self, TlsError> {
        let contents = contents(&trust, identity.as_ref())?;
        let client = tls::client(&trust, identity.as_ref())?;
        Ok(TrustStore(Arc::new(Store { trust, identity, current: RwLock::new((contents, client)) })))
    }

    /// The rustls configuration of a connection.
    pub fn client(&self) -> ClientTls {
        read(&self.0.current).1.clone()
    }

    /// Reads them again, where they are in files. Files that cannot be used change nothing.
    pub fn reload(&self) {
        let Store { trust, identity, current } = &*self.0;
        let renewed = contents(trust, identity.as_ref()).and_then(|contents| {
            let is_same = read(current).0 == contents;
            // A client that goes on resumes its sessions.
            if is_same { Ok(None) } else { Ok(Some((contents, tls::client(trust, identity.as_ref())?))) }
        });
        match renewed {
            Ok(Some(renewed)) => {
                *write(current) = renewed;
            }
            Ok(None) => {}
            Err(why) => warn!("certificates and authorities stay as they were: {why}"),
        }
    }
}

/// The contents of the files now.
fn contents(trust: &Trust, identity: Option<&ClientIdentity>) -> Result<FileContents, TlsError> {
    let authorities = if let Trust::File(path) = trust { Some(path) } else { None };
    let own = identity.into_iter().flat_map(|identity| [&identity.certificates, &identity.key]);
    let content = |path: &PathBuf| {
        std::fs::read(path).map_err(|error| TlsError::File { path: path.clone(), reason: error.to_string() })
    };
    authorities.into_iter().chain(own).map(content).collect()
}
