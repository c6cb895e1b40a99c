//! The certificates of a control plane and the kubeconfigs of those who talk to it, as `kubeadm init`
//! writes them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use serde_json::{Value, json};

use crate::plan::{self, port};

/// A certificate authority, and the folder with what it has signed.
pub struct Pki {
    directory: PathBuf,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl std::fmt::Debug for Pki {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "the certificates in {}",
            self.directory.display()
        )
    }
}

impl Pki {
    /// A fresh authority (`ca.crt`), the API server's certificate (`apiserver.crt`, `apiserver.key`),
    /// and the key pair that signs the tokens of service accounts (`sa.key`, `sa.pub`).
    pub fn create(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
        let mut params = named("kubernetes", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyCertSign,
        ];
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)
            .context("make a certificate authority")?;
        let pki = Self {
            directory: directory.to_owned(),
            authority,
        };
        pki.write("ca.crt", &pki.authority.pem())?;

        pki.sign("apiserver", &server()?)?;

        let accounts = KeyPair::generate()?;
        pki.write("sa.key", &accounts.serialize_pem())?;
        pki.write("sa.pub", &accounts.public_key_pem())?;
        Ok(pki)
    }

    /// Puts a self-signed certificate in the place of the API server's, as servers make them that nobody has given one:
    /// an authority by itself. It ends with the year 2020 if it is `expired`. Gives the kubeconfig of an administrator who
    /// trusts this certificate alone, from a copy that stays as it is.
    pub fn self_sign_server(&self, name: &str, expired: bool) -> Result<PathBuf> {
        let mut params = server()?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        if expired {
            params.not_after = date_time_ymd(2020, 12, 31);
        }
        let key = KeyPair::generate()?;
        let certificate = params
            .self_signed(&key)
            .context("sign the server's certificate with its own key")?;
        let copy = format!("{name}.crt");
        self.write(&copy, &certificate.pem())?;
        self.write("apiserver.crt", &certificate.pem())?;
        self.write("apiserver.key", &key.serialize_pem())?;
        let trust = json!({"certificate-authority": self.path(&copy)});
        self.kubeconfig(name, trust, &self.with_certificate("admin"))
    }

    /// A kubeconfig for the administrator who takes any server for the right one.
    pub fn trusting_admin(&self) -> Result<PathBuf> {
        let trust = json!({"insecure-skip-tls-verify": true});
        self.kubeconfig("trusting", trust, &self.with_certificate("admin"))
    }

    /// The file of this name.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A kubeconfig for this user, with a client certificate.
    pub fn user(&self, name: &str, group: Option<&str>) -> Result<PathBuf> {
        let mut params = named(name, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let file = name.replace(':', "-");
        self.sign(&file, &params)?;
        self.kubeconfig(&file, self.authority_file(), &self.with_certificate(&file))
    }

    fn with_certificate(&self, file: &str) -> Value {
        json!({
            "client-certificate": self.path(&format!("{file}.crt")),
            "client-key": self.path(&format!("{file}.key")),
        })
    }

    fn authority_file(&self) -> Value {
        json!({"certificate-authority": self.path("ca.crt")})
    }

    /// A kubeconfig for the bearer of a token.
    pub fn bearer(&self, name: &str, token: &str) -> Result<PathBuf> {
        self.kubeconfig(name, self.authority_file(), &json!({"token": token}))
    }

    fn kubeconfig(&self, name: &str, mut cluster: Value, user: &Value) -> Result<PathBuf> {
        cluster["server"] = format!("https://{}:{}", plan::CONTROL_PLANE, port::API_SERVER).into();
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lab", "cluster": cluster}],
            "users": [{"name": name, "user": user}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": name}}],
            "current-context": "lab",
        });
        let file = format!("{name}.kubeconfig");
        self.write(&file, &serde_saphyr::to_string(&config)?)?;
        Ok(self.path(&file))
    }

    fn sign(&self, name: &str, params: &CertificateParams) -> Result<()> {
        let key = KeyPair::generate()?;
        let certificate = params
            .signed_by(&key, &self.authority)
            .with_context(|| format!("sign the certificate of {name}"))?;
        self.write(&format!("{name}.crt"), &certificate.pem())?;
        self.write(&format!("{name}.key"), &key.serialize_pem())
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.path(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }
}

/// What the API server's certificate says.
fn server() -> Result<CertificateParams> {
    let mut params = CertificateParams::new([
        "kubernetes".to_owned(),
        "kubernetes.default".to_owned(),
        "kubernetes.default.svc".to_owned(),
        format!("kubernetes.default.svc.{}", plan::CLUSTER_DOMAIN),
        "localhost".to_owned(),
        plan::CONTROL_PLANE.to_string(),
        plan::KUBERNETES.to_string(),
        "127.0.0.1".to_owned(),
    ])?;
    params.distinguished_name = named("kube-apiserver", None).distinguished_name;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}

/// The name of a user, and of the group that RBAC knows it by.
fn named(name: &str, group: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    if let Some(group) = group {
        params
            .distinguished_name
            .push(DnType::OrganizationName, group);
    }
    params
}
