use super::*;

fn read(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::read(|name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
}

#[test]
fn the_defaults_are_the_documented_ones() {
    let config = read(&[]).unwrap();
    assert_eq!(config.listen.address.to_string(), "0.0.0.0:9090");
    assert_eq!(config.places.images, PathBuf::from("/var/lib/clarateach/images"));
    assert_eq!(config.places.sockets, PathBuf::from("/tmp/clarateach"));
    assert_eq!(config.network.bridge, "clarateach0");
    assert_eq!(config.network.subnet.to_string(), "192.168.100.1/24");
    assert_eq!(config.vmm.capacity, 50);
    assert_eq!(config.vmm.kind, VmmKind::Firecracker);
    assert!(config.vmm.snapshots);
}

#[test]
fn wrong_values_are_refused_with_the_variables_name() {
    for (name, value) in [
        ("PORT", "70000"),
        ("PORT", "http"),
        ("BIND_ADDR", "localhost"),
        ("AGENT_TOKEN", "two words"),
        ("METRICS_TOKEN", "é"),
        ("IMAGES_DIR", "images"),
        ("SOCKET_DIR", "./x"),
        ("STATE_DIR", "state"),
        ("BRIDGE_NAME", "a-name-that-is-too-long"),
        ("BRIDGE_NAME", "a/b"),
        ("BRIDGE_NAME", ".."),
        ("BRIDGE_IP", "192.168.100.1"),
        ("BRIDGE_IP", "192.168.100.0/24"),
        ("BRIDGE_IP", "192.168.100.255/24"),
        ("BRIDGE_IP", "8.8.8.8/24"),
        ("BRIDGE_IP", "10.0.0.1/7"),
        ("BRIDGE_IP", "10.0.0.1/31"),
        ("BRIDGE_IP", "10.0.0.1/024"),
        ("BRIDGE_IP", "fd00::1/64"),
        ("CAPACITY", "0"),
        ("CAPACITY", "-1"),
        ("CAPACITY", "1024"),
        ("CAPACITY", "254"),
        ("VMM", "xen"),
        ("JAILER_UID_BASE", "0"),
        ("QEMU_ACCEL", "hvf"),
        ("SNAPSHOTS", "yes"),
        ("READINESS", "hope"),
        ("PUBLIC_URL", "worker.example.org"),
        ("PUBLIC_URL", "https://worker.example.org/sub"),
        ("CORS_ORIGINS", "https://a.example,*"),
        ("WORKER_ID", "a b"),
        ("LOG_FORMAT", "xml"),
        ("METADATA", "maybe"),
    ] {
        let error = read(&[(name, value)]).unwrap_err();
        assert_eq!(error.variable, name, "{name}={value}");
        assert!(error.to_string().contains("takes"), "{error}");
    }
}

#[test]
fn capacity_must_fit_the_network_and_the_bridge() {
    assert_eq!(read(&[("CAPACITY", "253")]).unwrap().vmm.capacity, 253);
    let wide = ("BRIDGE_IP", "10.77.0.1/16");
    assert_eq!(read(&[wide, ("CAPACITY", "1023")]).unwrap().vmm.capacity, 1023);
    assert_eq!(read(&[wide, ("CAPACITY", "1024")]).unwrap_err().variable, "CAPACITY");
    let narrow = ("BRIDGE_IP", "10.77.0.1/29");
    assert_eq!(read(&[narrow]).unwrap_err().variable, "CAPACITY");
    assert!(read(&[narrow, ("CAPACITY", "5")]).is_ok());
}

#[test]
fn tls_takes_a_certificate_and_its_key() {
    let (cert, key) = (("TLS_CERT", "/c.pem"), ("TLS_KEY", "/k.pem"));
    assert!(read(&[]).unwrap().listen.tls.is_none());
    assert!(read(&[cert, key]).unwrap().listen.tls.is_some());
    assert_eq!(read(&[cert]).unwrap_err().variable, "TLS_KEY");
    assert_eq!(read(&[key]).unwrap_err().variable, "TLS_CERT");
}

#[test]
fn only_an_instance_follows_its_metadata() {
    let (token, host) = (("AGENT_TOKEN", "hunter2"), ("GCE_METADATA_HOST", "127.0.0.1:1"));
    let asks = |settings: &[(&str, &str)]| read(settings).unwrap().metadata;
    assert_eq!(asks(&[token, host, ("METADATA", "on")]).as_deref(), Some("127.0.0.1:1"));
    assert_eq!(
        asks(&[host, ("METADATA", "auto")]).as_deref(),
        Some("127.0.0.1:1"),
        "the token comes from there"
    );
    assert_eq!(asks(&[host, ("METADATA", "off")]), None);
    assert_eq!(asks(&[("METADATA", "on")]).as_deref(), Some("metadata.google.internal"));
}

#[test]
fn a_secret_is_not_repeated() {
    let error = read(&[("AGENT_TOKEN", "hunter2 hunter2")]).unwrap_err();
    assert!(!error.to_string().contains("hunter2"));
    let config = read(&[("AGENT_TOKEN", "hunter2"), ("METRICS_TOKEN", "hunter3")]).unwrap();
    assert!(!format!("{config:?}").contains("hunter"));
}

#[test]
fn every_setting_read_is_in_the_table() {
    let asked = std::cell::RefCell::new(Vec::new());
    let _ = Config::read(|name| {
        asked.borrow_mut().push(name.to_owned());
        None
    });
    let asked = asked.into_inner();
    for name in &asked {
        assert!(SETTINGS.iter().any(|(n, _, _)| n == name), "{name}");
    }
    for (name, _, _) in SETTINGS {
        assert!(asked.iter().any(|n| n == name), "{name} is never read");
    }
}
