//! Where access tokens come from, and what is said when they don't.

use std::collections::BTreeMap;
use std::path::Path;

use clarateach_gcp::double::{ComputeDouble, TOKEN};
use clarateach_gcp::{Credentials, Kind};
use serde_json::json;

use crate::{client_with, double};

fn environment(pairs: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> {
    let map: BTreeMap<String, String> =
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    move |name| map.get(name).cloned()
}

/// What `gcloud auth application-default login` writes.
fn user_file(dir: &Path, double: &ComputeDouble) -> String {
    let path = dir.join("application_default_credentials.json");
    let content = json!({"type": "authorized_user", "client_id": "id", "client_secret": "cs-very-secret",
        "refresh_token": "rt-very-secret", "token_uri": double.token_uri()});
    std::fs::write(&path, content.to_string()).unwrap();
    path.display().to_string()
}

#[tokio::test]
async fn a_token_from_the_environment() {
    let double = double().await;
    let credentials = Credentials::find(environment(&[("CLOUDSDK_AUTH_ACCESS_TOKEN", TOKEN)])).unwrap();
    client_with(&double, credentials).instances(None).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    std::fs::write(&path, format!("{TOKEN}\n")).unwrap();
    let file = path.display().to_string();
    let credentials = Credentials::find(environment(&[("CLOUDSDK_AUTH_ACCESS_TOKEN_FILE", &file)])).unwrap();
    client_with(&double, credentials).instances(None).await.unwrap();
}

#[tokio::test]
async fn application_default_credentials_are_renewed() {
    let double = double().await;
    let dir = tempfile::tempdir().unwrap();
    user_file(dir.path(), &double);
    let config = dir.path().display().to_string();
    let credentials = Credentials::find(environment(&[("CLOUDSDK_CONFIG", &config)])).unwrap();
    let compute = client_with(&double, credentials);
    compute.instances(None).await.unwrap();
    double.expire_tokens();
    compute.instances(None).await.unwrap();
    // Revoked: no new token is given either.
    double.expire_tokens();
    double.give_tokens(false);
    let error = compute.instances(None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized);
    let text = error.one_line();
    assert!(text.contains("gcloud auth application-default login"), "{text}");
    assert!(text.contains("expired or revoked") && !text.contains("very-secret"), "{text}");
    // And when somebody has logged in again, it goes on.
    double.give_tokens(true);
    compute.instances(None).await.unwrap();
}

#[tokio::test]
async fn a_service_accounts_key_signs_its_own_tokens() {
    let double = double().await;
    let dir = tempfile::tempdir().unwrap();
    let email = "worker@clarateach.iam.gserviceaccount.com";
    let pem = dir.path().join("key.pem");
    let made = std::process::Command::new("openssl")
        .args(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out"])
        .arg(&pem)
        .output()
        .expect("openssl is there");
    assert!(made.status.success());
    let key = json!({"type": "service_account", "project_id": "clarateach", "private_key_id": "1", "client_email": email,
        "private_key": std::fs::read_to_string(&pem).unwrap(), "token_uri": double.token_uri()});
    let path = dir.path().join("key.json");
    std::fs::write(&path, key.to_string()).unwrap();
    let path = path.display().to_string();
    let find = || Credentials::find(environment(&[("GOOGLE_APPLICATION_CREDENTIALS", &path)])).unwrap();
    let error = client_with(&double, find()).instances(None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized, "an account that nobody trusts");
    double.trust_service_account(email);
    client_with(&double, find()).instances(None).await.unwrap();
}

#[tokio::test]
async fn the_metadata_server_of_a_machine_of_googles() {
    let double = double().await;
    let host = double.metadata_host();
    let credentials = Credentials::find(environment(&[("GCE_METADATA_HOST", &host)])).unwrap();
    assert!(credentials.describe().contains("metadata server"));
    client_with(&double, credentials).instances(None).await.unwrap();
}

#[tokio::test]
async fn none_at_all_says_how_to_get_some() {
    let double = double().await;
    let credentials = Credentials::find(environment(&[("GCE_METADATA_HOST", "127.0.0.1:9")])).unwrap();
    let error = client_with(&double, credentials).instances(None).await.unwrap_err();
    let text = error.one_line();
    assert!(text.contains("gcloud auth application-default login"), "{text}");
    assert!(text.contains("GOOGLE_APPLICATION_CREDENTIALS"), "{text}");
    assert!(double.recorded().is_empty());
}

#[tokio::test]
async fn a_fixed_token_that_has_expired_is_said_so() {
    let double = double().await;
    double.expire_tokens();
    let credentials = Credentials::find(environment(&[("CLOUDSDK_AUTH_ACCESS_TOKEN", TOKEN)])).unwrap();
    let text = client_with(&double, credentials).instances(None).await.unwrap_err().one_line();
    assert!(text.contains("expired or been revoked") && text.contains("application-default login"), "{text}");
    assert!(!text.contains(TOKEN), "{text}");
}

#[test]
fn files_that_are_no_credentials() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key.json");
    let find = || {
        let path = path.display().to_string();
        Credentials::find(environment(&[("GOOGLE_APPLICATION_CREDENTIALS", &path)])).unwrap_err().to_string()
    };
    assert!(find().contains("No such file"), "{}", find());
    std::fs::write(&path, "private_key = very-secret").unwrap();
    assert!(find().contains("no JSON") && !find().contains("very-secret"), "{}", find());
    std::fs::write(&path, "{}").unwrap();
    assert!(find().contains("no type"), "{}", find());
}
