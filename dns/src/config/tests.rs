use super::*;

fn parse(words: &[&str]) -> Result<Config, ConfigError> {
    let words = ["romana-dns", "--upstream", "10.0.0.2"].iter().chain(words);
    Config::load(&Args::try_parse_from(words).unwrap())
}

#[test]
fn flags_go_before_the_file_and_the_file_before_defaults() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("dns.toml");
    std::fs::write(&file, "zone = 'a.example'\nttl = 7\nserver = ['http://10.0.0.1']\n").unwrap();
    let config = parse(&["--config", file.to_str().unwrap(), "--zone", "B.example"]).unwrap();
    assert_eq!(config.settings.zone, Name::from_ascii("b.example.").unwrap());
    assert_eq!((config.settings.ttl, config.listen), (7, vec![any(53)]));
    assert_eq!(config.settings.parts, Part::ALL);
    assert_eq!(config.servers[0].to_string(), "http://10.0.0.1:9600");
    assert_eq!((config.kubernetes, config.allow.len()), (None, PRIVATE.len()));
}

#[cfg(feature = "kubernetes")]
#[test]
fn the_annotated_file_says_every_key_and_is_accepted() {
    let text = include_str!("../../../deploy/config/dns.toml");
    let all = text.replace("# kubeconfig", "kubeconfig");
    let said: toml::Table = all.parse().unwrap();
    let given: Given = toml::from_str(&all).unwrap();
    // Check every key, by its name in the debug form.
    let shown = format!("{given:?}");
    assert!(!shown.contains("None"), "a key is missing: {shown}");
    assert_eq!(said.len(), shown.matches("Some(").count());
    let defaults = Config::check(Given {
        server: given.server.clone(),
        kubernetes: given.kubernetes,
        ..Given::default()
    });
    let (stated, defaults) = (Config::check(toml::from_str(text).unwrap()), defaults);
    let shown = |config: Result<Config, ConfigError>| format!("{:?}", config.unwrap());
    assert_eq!(shown(stated), shown(defaults), "the file states the defaults");
}

#[test]
fn bad_values_say_which_and_why() {
    let server = ["--server", "http://10.0.0.1"];
    for (args, wanted) in [
        (vec!["--zone", "."], "zone"),
        (vec!["--zone", "a..b"], "zone"),
        (vec!["--ttl", "604801"], "ttl"),
        (vec!["--server", "ftp://x"], "server"),
        (vec!["--upstream", "dns.example"], "upstream"),
        (vec!["--stub-domain", "cluster.local=10.0.0.3"], "stub_domain"),
        (vec!["--stub-domain", "a.example=10.0.0.3;b.example"], "stub_domain"),
        (vec!["--kubeconfig", "/k"], "kubeconfig"),
        (vec![], "kubernetes"),
    ] {
        let with_server = if wanted == "kubernetes" { vec![] } else { server.to_vec() };
        let words = [with_server, args.clone()].concat();
        let words: Vec<&str> = match wanted {
            // The last of a repeated flag would be refused by clap.
            "server" => args.clone(),
            _ => words,
        };
        let loaded = if wanted == "upstream" {
            let words = ["romana-dns"].iter().chain(&words);
            Config::load(&Args::try_parse_from(words).unwrap())
        } else {
            parse(&words)
        };
        let error = loaded.unwrap_err();
        let ConfigError::Value { key, .. } = error else { panic!("{args:?}: {error}") };
        assert_eq!(key, wanted, "{args:?}");
    }
    let refused =
        |words: &[&str]| Args::try_parse_from(["romana-dns"].iter().chain(words)).is_err();
    assert!(refused(&["--answer", "pod"]) && refused(&["--service", "kube-dns"]));
}
