use std::path::Path;

use super::*;

fn args(line: &str) -> Args {
    Args::parse_from(std::iter::once("romanad").chain(line.split_whitespace()))
}

fn merged(line: &str, toml: &str) -> Result<Config, ConfigError> {
    Config::check(args(line).given.over(toml::from_str(toml).unwrap())?, None)
}

#[test]
fn dev_needs_nothing() {
    let config = merged("--dev", "").unwrap();
    assert_eq!(config.listen, "127.0.0.1:9600".parse().unwrap());
    assert_eq!(config.initial_cluster[&1], "127.0.0.1:9601");
    assert_eq!(config.advertise_api, None);
}

#[test]
fn flags_go_before_the_file_and_the_file_before_defaults() {
    let file = "id = 2\ndata_dir = '/a'\nlisten = '10.0.0.2:1'\n\
                initial_cluster = { 1 = 'a:9601', 2 = 'b:9601', 3 = 'c:9601' }";
    let config = merged("--data-dir /b", file).unwrap();
    assert_eq!(config.data_dir, Path::new("/b"));
    assert_eq!(config.listen, "10.0.0.2:1".parse().unwrap());
    assert_eq!(config.peer_listen, "0.0.0.0:9601".parse().unwrap());
    assert_eq!(config.advertise_peer, "b:9601");
    let config = merged("--listen 0.0.0.0:7", file).unwrap();
    assert_eq!(config.advertise_api.as_deref(), Some("b:7"));
}

#[test]
fn mistakes_name_the_key() {
    for (line, key) in [
        ("", "id"),
        ("--id 1", "data_dir"),
        ("--id 0 --data-dir d", "id"),
        ("--id 1 --data-dir d", "advertise_peer"),
        ("--id 4 --data-dir d --initial-cluster 1=a:1", "initial_cluster"),
        ("--id 1 --data-dir d --initial-cluster 1=a", "initial_cluster"),
        ("--id 1 --data-dir d --initial-cluster 1=a:1,1=b:1", "initial_cluster"),
        ("--id 1 --data-dir d --initial-cluster 1=a:1,2=a:1", "initial_cluster"),
        ("--id 1 --data-dir d --initial-cluster x=a:1", "initial_cluster"),
        ("--join h:1 --id 4 --data-dir d --advertise-peer a:1", "id"),
        ("--join h:1 --data-dir d --initial-cluster 1=a:1", "initial_cluster"),
        ("--join https://h:1 --data-dir d --advertise-peer a:1", "join"),
        ("--join h:1 --data-dir d", "advertise_peer"),
        ("--dev --rejoin h", "rejoin"),
        ("--dev --network-cidr-overrides net=10.0.0.1/8", "network_cidr_overrides"),
        ("--dev --request-timeout-ms 0", "request_timeout_ms"),
        ("--dev --connections-max 1", "connections_max"),
        ("--dev --kubeconfig k", "kubeconfig"),
        ("--dev --listen 127.0.0.1:7 --peer-listen 127.0.0.1:7", "peer_listen"),
        ("--dev --listen 0.0.0.0:7 --peer-listen 127.0.0.1:7", "peer_listen"),
        ("--dev --restore b --await-restore", "restore"),
        ("--dev --region us-east-1", "region"),
        ("--dev --region us-east-1 --cloud aws --initial-network f", "region"),
    ] {
        let error = merged(line, "").unwrap_err().to_string();
        assert!(error.starts_with(key), "{line}: {error}");
    }
    assert!(toml::from_str::<Given>("colour = 1").is_err());
}

#[cfg(feature = "kubernetes")]
#[test]
fn kubernetes_is_followed_with_a_kubeconfig_or_from_a_pod() {
    let access = |line| merged(line, "").unwrap().kubernetes;
    assert_eq!(access("--dev"), None);
    assert_eq!(access("--dev --kubernetes"), Some(Access::InCluster));
    let file = Some(Access::Kubeconfig("/k".into()));
    assert_eq!(access("--dev --kubernetes --kubeconfig /k"), file);
}

#[test]
fn who_joins_has_no_id_yet() {
    let line = "--join http://h:1/,g:2 --data-dir d --advertise-peer a:1";
    let config = merged(line, "").unwrap();
    assert_eq!((config.id, config.join), (0, vec![String::from("h:1"), "g:2".into()]));
    assert!(config.initial_cluster.is_empty());
}

#[test]
fn the_annotated_file_is_valid_and_complete() {
    let text = include_str!("../../../deploy/config/romanad.toml");
    let file: Given = toml::from_str(text).unwrap();
    assert!(Config::check(file, None).is_ok());
    let everything: String = text
        .lines()
        .map(|line| line.strip_prefix("#> ").unwrap_or(line))
        .flat_map(|line| [line, "\n"])
        .collect();
    let keys: toml::Table = toml::from_str(&everything).unwrap();
    use clap::CommandFactory;
    for flag in Args::command().get_arguments().map(|arg| arg.get_id().as_str()) {
        let only_flags = ["config", "check", "help", "version"].contains(&flag);
        assert!(only_flags || keys.contains_key(flag), "{flag} is not in romanad.toml");
    }
    let _: Given = toml::from_str(&everything).unwrap();
}

#[test]
fn the_initial_topology_is_chosen_in_order() {
    let file = Some(PathBuf::from("f"));
    let aws = Some(Cloud::Aws);
    let kubeadm = InitialTopology::Builtin("kubeadm");
    assert_eq!(initial_topology(file, aws, None, None), InitialTopology::File("f".into()));
    assert_eq!(initial_topology(None, aws, None, Some("10.96.0.1")), InitialTopology::Aws(None));
    assert_eq!(initial_topology(None, None, None, Some("10.96.0.1")), kubeadm);
    assert_eq!(initial_topology(None, None, None, Some("10.0.0.1")), InitialTopology::Later);
}
