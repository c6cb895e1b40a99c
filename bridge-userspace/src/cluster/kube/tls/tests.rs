use std::io::Read as _;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};

use super::*;

const ADDRESS: &str = "10.60.20.10";
const NAME: &str = "api.example";

/// A certificate's parameters as servers have them that make their own.
fn own() -> CertificateParams {
    let mut params = CertificateParams::new([ADDRESS.to_owned(), NAME.to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

fn self_signed(params: &CertificateParams) -> CertificateDer<'static> {
    let key = KeyPair::generate().unwrap();
    params.self_signed(&key).unwrap().der().clone()
}

fn judged_at(
    name: &str,
    pinned: &[&CertificateDer<'static>],
    shown: &CertificateDer<'_>,
    now: UnixTime,
) -> Result<(), String> {
    let pinned: Vec<Vec<u8>> = pinned.iter().map(|der| der.to_vec()).collect();
    let name = ServerName::try_from(name).unwrap();
    Verifier::new(&pinned)
        .unwrap()
        .verify_server_cert(shown, &[], &name, &[], now)
        .map(drop)
        .map_err(|error| {
            // As the connectors wrap it.
            let error = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, error));
            distrust(&error).expect("an explanation")
        })
}

fn judged(pinned: &[&CertificateDer<'static>], shown: &CertificateDer<'_>) -> Result<(), String> {
    judged_at(ADDRESS, pinned, shown, UnixTime::now())
}

#[track_caller]
fn refused(verdict: Result<(), String>, why: &str) {
    let told = verdict.unwrap_err();
    assert!(told.contains(why), "{told}");
}

#[test]
fn a_servers_own_certificate_is_trusted_where_it_is_in_the_ca_file() {
    let shown = self_signed(&own());
    assert_eq!(judged(&[&shown], &shown), Ok(()));
    assert_eq!(judged_at(NAME, &[&shown], &shown, UnixTime::now()), Ok(()));
    let other = self_signed(&own());
    assert_eq!(judged(&[&other, &shown], &shown), Ok(()));
}

#[test]
fn another_self_signed_certificate_is_refused_though_it_has_the_same_names() {
    let (pinned, shown) = (self_signed(&own()), self_signed(&own()));
    refused(
        judged(&[&pinned], &shown),
        "self-signed certificate that is not in the configured CA file",
    );
    // With the same key it is still not the same certificate.
    let key = KeyPair::generate().unwrap();
    let [pinned, shown] = [1_u64, 2].map(|serial| {
        let mut params = own();
        params.serial_number = Some(serial.into());
        params.self_signed(&key).unwrap().der().clone()
    });
    refused(judged(&[&pinned], &shown), "self-signed");
}

#[test]
fn a_certificate_in_the_ca_file_has_to_be_valid_now() {
    for is_ca in [true, false] {
        let mut params = own();
        if !is_ca {
            params.is_ca = IsCa::NoCa;
        }
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
        let certificate = self_signed(&params);
        refused(
            judged(&[&certificate], &certificate),
            "has expired (2021-01-01T00:00:00Z)",
        );
        // Some time in 2017.
        let before = UnixTime::since_unix_epoch(Duration::from_hours(416_000));
        refused(
            judged_at(ADDRESS, &[&certificate], &certificate, before),
            "not valid before 2020-01-01T00:00:00Z",
        );
    }
}

#[test]
fn a_certificate_in_the_ca_file_has_to_be_for_this_server() {
    let certificate = self_signed(&own());
    for name in ["10.60.20.11", "other.example"] {
        refused(
            judged_at(name, &[&certificate], &certificate, UnixTime::now()),
            "not valid for name",
        );
    }
}

#[test]
fn the_certificate_of_a_server_is_trusted_without_its_authority() {
    // With a name of its own, and with the one that the server's certificate has by default too.
    for name in ["authority", "rcgen self signed cert"] {
        let mut params = own();
        params.distinguished_name.push(DnType::CommonName, name);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let signed = |params: &CertificateParams| {
            let key = KeyPair::generate().unwrap();
            params.signed_by(&key, &authority).unwrap().der().clone()
        };
        let mut params = own();
        params.is_ca = IsCa::NoCa;
        let shown = signed(&params);
        assert_eq!(judged(&[&authority.der().clone()], &shown), Ok(()));
        assert_eq!(judged(&[&shown], &shown), Ok(()));
        // Being pinned makes it no authority, nor others of its authority trusted.
        refused(
            judged(&[&shown], &signed(&params)),
            "neither in the configured CA file",
        );
        refused(
            judged_at("10.60.20.11", &[&shown], &shown, UnixTime::now()),
            "not valid for name",
        );
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
        let expired = signed(&params);
        refused(judged(&[&expired], &expired), "has expired");
    }
}

/// Shows the same certificate to everybody, whether the key is its own or not.
#[derive(Debug)]
struct Shows(Arc<CertifiedKey>);

impl ResolvesServerCert for Shows {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// A handshake with a server that shows this certificate and has this key, over no network.
fn handshake(certificate: &CertificateDer<'static>, key: &KeyPair) -> Result<(), rustls::Error> {
    let mut client = ClientConfig::builder()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let verifier = Verifier::new(&[certificate.to_vec()]).unwrap();
    client
        .dangerous()
        .set_certificate_verifier(Arc::new(verifier));
    let server = ServerConfig::builder().with_no_client_auth();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let key = server
        .crypto_provider()
        .key_provider
        .load_private_key(key)
        .unwrap();
    let shows = Shows(Arc::new(CertifiedKey::new(vec![certificate.clone()], key)));
    let server = server.with_cert_resolver(Arc::new(shows));

    let name = ServerName::try_from(ADDRESS).unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut wire = &wire[..];
        while !wire.is_empty() {
            server.read_tls(&mut wire.by_ref()).unwrap();
            server.process_new_packets()?;
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut wire = &wire[..];
        while !wire.is_empty() {
            client.read_tls(&mut wire.by_ref()).unwrap();
            client.process_new_packets()?;
        }
    }
    Ok(())
}

#[test]
fn who_shows_the_certificate_must_have_its_key() {
    let key = KeyPair::generate().unwrap();
    let certificate = own().self_signed(&key).unwrap().der().clone();
    assert_eq!(handshake(&certificate, &key), Ok(()));
    let stranger = KeyPair::generate().unwrap();
    assert_eq!(
        handshake(&certificate, &stranger),
        Err(CertificateError::BadSignature.into())
    );
}
