//! Runs the plugin without an agent and tests its side of the CNI specification. Texts and codes are compared
//! with the answers of the reference plugins (`../shared/judges/cni11_golden.txt`), where they have them; row
//! numbers are those of `reference/field.md` §3.1.

use std::io::Write;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use proptest::prelude::*;
use romana_agent::cni::{self, Agent, Env};
use romana_agent::ipc::{self, Added, Failed, Link, Reply, Request};
use romana_statemachine::agent::PodRef;
use serde_json::{Value, json};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/judges/cni11_golden.txt");

/// Runs the plugin with only these environment variables.
fn exec(vars: &[(&str, &str)], stdin: &str) -> (i32, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_romana-cni"));
    command.env_clear().envs(vars.iter().copied());
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it runs");
    // It may exit before it has read everything.
    _ = child.stdin.take().expect("its input").write_all(stdin.as_bytes());
    let output = child.wait_with_output().expect("it ends");
    let text = String::from_utf8(output.stdout).expect("text");
    let value =
        if text.is_empty() { Value::Null } else { serde_json::from_str(&text).expect("JSON") };
    (output.status.code().expect("a status"), value)
}

fn config(version: &str, more: Value) -> String {
    let mut config = json!({"cniVersion": version, "name": "net", "type": "romana-cni",
        "socket": "/nonexistent/agent.sock", "stateDir": "/proc/nonexistent"});
    config.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    config.to_string()
}

fn add() -> Vec<(&'static str, &'static str)> {
    vec![
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "x"),
        ("CNI_NETNS", "/nope"),
        ("CNI_IFNAME", "eth0"),
    ]
}

fn with(name: &'static str, value: &'static str) -> Vec<(&'static str, &'static str)> {
    add().into_iter().filter(|(known, _)| *known != name).chain([(name, value)]).collect()
}

#[test]
fn errors_are_those_of_the_reference() {
    let golden = std::fs::read_to_string(Path::new(GOLDEN));
    assert!(golden.is_ok() || std::env::var_os("CI").is_none(), "{GOLDEN} is missing");
    let newest = config("1.1.0", json!({}));
    let rows = [
        ("E1", with("CNI_COMMAND", "FOO"), newest.clone(), 4, "unknown CNI_COMMAND: FOO"),
        (
            "E2",
            vec![("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "x")],
            newest.clone(),
            4,
            "required env variables [CNI_NETNS,CNI_IFNAME] missing",
        ),
        (
            "E4",
            with("CNI_CONTAINERID", "-x"),
            newest.clone(),
            4,
            "invalid characters in containerID",
        ),
        (
            "E5",
            with("CNI_IFNAME", "bad/if"),
            newest,
            4,
            "interface name contains / or : or whitespace characters",
        ),
        (
            "E7",
            add(),
            "{".into(),
            6,
            "error unmarshall network config: unexpected end of JSON input",
        ),
        ("E8", add(), config("9.9.9", json!({})), 1, "incompatible CNI versions"),
        ("E10", add(), config("1.1.0", json!({"name": ""})), 7, "missing network name"),
        (
            "E11",
            with("CNI_COMMAND", "CHECK"),
            config("0.3.1", json!({})),
            1,
            "config version does not allow CHECK",
        ),
        (
            "E12",
            with("CNI_COMMAND", "GC"),
            config("1.0.0", json!({})),
            1,
            "config version does not allow GC",
        ),
        (
            "E12",
            with("CNI_COMMAND", "STATUS"),
            config("1.0.0", json!({})),
            1,
            "config version does not allow STATUS",
        ),
    ];
    for (row, vars, stdin, code, msg) in rows {
        let (status, error) = exec(&vars, &stdin);
        assert_eq!(
            (status, &error["code"], &error["msg"]),
            (1, &json!(code), &json!(msg)),
            "{row}"
        );
        if let Ok(golden) = &golden {
            let said = format!("\"code\": {code},\n    \"msg\": {}", json!(msg));
            assert!(golden.contains(&said), "{row}: the reference does not say {said}");
        }
    }
}

#[test]
fn errors_that_the_reference_leaves_open() {
    let newest = config("1.1.0", json!({}));
    let limits = json!({"capabilities": {"portMappings": true},
        "runtimeConfig": {"portMappings": [{"hostPort": 80}]}});
    for (row, vars, stdin, code) in [
        ("E4", with("CNI_CONTAINERID", "a/b"), newest.clone(), 4),
        ("E5", with("CNI_IFNAME", "sixteen-bytes-xx"), newest.clone(), 4),
        ("E5", with("CNI_IFNAME", ".."), newest.clone(), 4),
        ("E7", add(), config("1.x", json!({})), 6),
        ("E9", add(), json!({"name": "net", "type": "romana-cni"}).to_string(), 1),
        ("E10", add(), config("1.1.0", json!({"name": "a b"})), 7),
        ("E15", add(), config("1.1.0", limits), 2),
        ("A10", add(), newest.clone(), 11),
        ("S2", with("CNI_COMMAND", "STATUS"), newest.clone(), 50),
        ("C5", with("CNI_COMMAND", "CHECK"), config("1.1.0", json!({"prevResult": {}})), 7),
        ("G1", with("CNI_COMMAND", "GC"), newest.clone(), 7),
        // Neither the agent nor its state directory exists: the runtime has to retry.
        ("D3", with("CNI_COMMAND", "DEL"), newest, 11),
    ] {
        let (status, error) = exec(&vars, &stdin);
        assert_eq!((status, &error["code"]), (1, &json!(code)), "{row}: {error}");
        assert!(error["msg"].as_str().is_some_and(|msg| !msg.is_empty()), "{row}: {error}");
    }
}

#[test]
fn versions_are_told() {
    for (stdin, version) in [("", "1.1.0"), (r#"{"cniVersion":"1.0.0"}"#, "1.0.0")] {
        let (status, told) = exec(&[("CNI_COMMAND", "VERSION")], stdin);
        assert_eq!(status, 0);
        assert_eq!(told["cniVersion"], version);
        assert_eq!(told["supportedVersions"], json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
    }
}

/// The state of a process, as in /proc/PID/stat: `S` sleeps, `Z` has ended.
fn process_state(pid: u32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
    let (_, rest) = stat.rsplit_once(") ").expect("the name is in parentheses");
    rest.chars().next().expect("a state")
}

/// While an agent is replaced, nobody listens at its socket for a moment.
#[test]
fn an_add_waits_for_an_agent_that_restarts() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("agent.sock");
    let mut child = Command::new(env!("CARGO_BIN_EXE_romana-cni"))
        .env_clear()
        .envs(add())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let stdin = config("1.1.0", json!({"socket": socket}));
    child.stdin.take().expect("its input").write_all(stdin.as_bytes()).expect("it reads");
    // Its input is there: it sleeps between two attempts.
    let state = loop {
        match process_state(child.id()) {
            state @ ('S' | 'Z') => break state,
            _ => std::thread::yield_now(),
        }
    };
    assert_eq!(state, 'S', "it did not wait: {:?}", child.wait_with_output());
    let listener = UnixListener::bind(&socket).expect("a socket");
    let (mut stream, _) = listener.accept().expect("it connects");
    let request: Request = ipc::receive(&mut stream).expect("a request");
    assert!(matches!(request, Request::Add(_)), "{request:?}");
    ipc::send(&mut stream, &added()).expect("it reads the reply");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{output:?}");
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(told["ips"][0]["address"], "10.0.0.1/32", "{told}");
}

/// An agent that is replaced may have accepted a connection, and even read the request.
#[test]
fn an_add_is_sent_again_to_an_agent_that_restarts() {
    for has_read in [false, true] {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("agent.sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let agent = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("it connects");
            let first = has_read.then(|| ipc::receive::<Request>(&mut stream).expect("a request"));
            drop(stream);
            let (mut stream, _) = listener.accept().expect("it connects again");
            let second: Request = ipc::receive(&mut stream).expect("the request again");
            ipc::send(&mut stream, &added()).expect("it reads the reply");
            assert!(first.is_none_or(|first| first == second), "{second:?}");
        });
        let (status, told) = exec(&add(), &config("1.1.0", json!({"socket": socket})));
        assert_eq!((status, &told["ips"][0]["address"]), (0, &json!("10.0.0.1/32")), "{told}");
        agent.join().expect("it was asked twice");
    }
}

/// What must not wait does not, although there was an agent.
#[test]
fn other_commands_answer_at_once_without_an_agent() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("agent.sock");
    let begun = Instant::now();
    let (status, error) =
        exec(&with("CNI_COMMAND", "STATUS"), &config("1.1.0", json!({"socket": socket})));
    assert_eq!((status, &error["code"]), (1, &json!(50)), "{error}");
    let spool = json!({"socket": socket, "stateDir": dir.path()});
    let (status, said) = exec(&with("CNI_COMMAND", "DEL"), &config("1.1.0", spool));
    assert_eq!((status, said), (0, Value::Null));
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

/// An agent with a prepared answer that records the request.
struct Scripted(Reply, Option<Request>);

impl Agent for Scripted {
    fn ask(&mut self, _socket: &str, request: &Request) -> std::io::Result<Reply> {
        self.1 = Some(request.clone());
        Ok(self.0.clone())
    }

    fn leave(&mut self, _state_dir: &str, _request: &Request) -> std::io::Result<()> {
        Err(std::io::Error::other("it was reached"))
    }
}

fn env(vars: &[(&str, &str)]) -> Env {
    Env::new(vars.iter().map(|(name, value)| ((*name).into(), (*value).into())))
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

fn added() -> Reply {
    let link = |name: &str| Link { name: name.into(), mac: "02:00:00:00:00:01".into(), mtu: 1400 };
    Reply::Added(Added {
        host_link: Some(link("romana-12345678")),
        link: Some(link("eth0")),
        addresses: vec![net("10.0.0.1/32"), net("fd00::1/128")],
        routes: vec![net("0.0.0.0/0"), net("::/0")],
    })
}

fn answer(stdin: &str) -> (Value, Request) {
    let mut agent = Scripted(added(), None);
    let output = cni::run(&env(&add()), Ok(stdin.as_bytes().to_vec()), &mut agent);
    assert_eq!(output.status, 0, "{}", output.stdout);
    (serde_json::from_str(&output.stdout).expect("JSON"), agent.1.expect("it was asked"))
}

#[test]
fn results_have_the_shape_of_their_version() {
    let (newest, _) = answer(&config("1.1.0", json!({"dns": {"nameservers": ["10.0.0.9"]}})));
    let expected = json!({
        "cniVersion": "1.1.0",
        "interfaces": [
            {"name": "romana-12345678", "mac": "02:00:00:00:00:01", "mtu": 1400},
            {"name": "eth0", "mac": "02:00:00:00:00:01", "mtu": 1400, "sandbox": "/nope"},
        ],
        "ips": [
            {"address": "10.0.0.1/32", "interface": 1},
            {"address": "fd00::1/128", "interface": 1},
        ],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
        "dns": {"nameservers": ["10.0.0.9"]},
    });
    assert_eq!(newest, expected);
    let (old, _) = answer(&config("0.4.0", json!({})));
    assert_eq!(old["ips"][1], json!({"version": "6", "address": "fd00::1/128", "interface": 1}));
    assert!(old["interfaces"][0].get("mtu").is_none());
}

#[test]
fn a_chain_is_added_to() {
    let previous = json!({"cniVersion": "1.0.0", "interfaces": [{"name": "a"}],
        "ips": [{"address": "192.168.0.2/24", "interface": 0}], "dns": {"domain": "x"}, "extra": 1});
    let (result, _) = answer(&config("1.0.0", json!({"prevResult": previous})));
    assert_eq!(result["interfaces"][0], json!({"name": "a"}));
    assert_eq!(result["ips"][0], json!({"address": "192.168.0.2/24", "interface": 0}));
    assert_eq!(result["ips"][1], json!({"address": "10.0.0.1/32", "interface": 2}));
    assert_eq!((&result["extra"], &result["dns"]), (&json!(1), &json!({"domain": "x"})));
}

#[test]
fn what_the_runtime_says_reaches_the_agent() {
    let more = json!({"segment": "front", "tenant": "ignored", "runtimeConfig": {"mac": "02:00:00:00:00:05",
        "ips": ["10.0.0.7/24"]}, "args": {"cni": {"labels": [{"key": "app", "value": "web"}]}}});
    let mut agent = Scripted(added(), None);
    let mut vars = add();
    vars.push((
        "CNI_ARGS",
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=blue;K8S_POD_NAME=web-1;FOO=bar;IP=fd00::7",
    ));
    cni::run(&env(&vars), Ok(config("1.1.0", more).into_bytes()), &mut agent);
    let Some(Request::Add(add)) = agent.1 else { panic!("it was not asked") };
    assert_eq!((&*add.tenant, &*add.segment, &*add.pod), ("blue", "front", "web-1"));
    assert_eq!(add.mac.as_deref(), Some("02:00:00:00:00:05"));
    assert_eq!(
        add.ips,
        ["10.0.0.7".parse::<std::net::IpAddr>().unwrap(), "fd00::7".parse().unwrap()]
    );
    assert_eq!(add.labels["app"], "web");
    assert_eq!(add.segment_of, None, "the segment was given");
}

#[test]
fn the_segment_of_a_pod_is_left_open() {
    let asked = |args: &'static str| {
        let mut agent = Scripted(added(), None);
        let vars: Vec<_> = add().into_iter().chain([("CNI_ARGS", args)]).collect();
        cni::run(&env(&vars), Ok(config("1.1.0", json!({})).into_bytes()), &mut agent);
        let Some(Request::Add(add)) = agent.1 else { panic!("it was not asked") };
        (add.segment, add.segment_of)
    };
    let pod =
        |uid: &str| PodRef { namespace: "blue".into(), name: "web-1".into(), uid: uid.into() };
    let (segment, of) = asked("K8S_POD_NAMESPACE=blue;K8S_POD_NAME=web-1;K8S_POD_UID=u1");
    assert_eq!((&*segment, of), ("default", Some(pod("u1"))), "an older agent takes the first");
    assert_eq!(asked("K8S_POD_NAMESPACE=blue;K8S_POD_NAME=web-1").1, Some(pod("")));
    let given = asked("K8S_POD_NAMESPACE=blue;K8S_POD_NAME=web-1;ROMANA_SEGMENT=front");
    assert_eq!(given, ("front".into(), None));
    assert_eq!(asked("K8S_POD_NAMESPACE=blue").1, None, "no pod");
}

/// A request of a plugin of an earlier release.
#[test]
fn a_segment_that_an_older_plugin_names_is_taken() {
    let add = json!({"command": "add", "key": {"container_id": "c", "ifname": "eth0"},
        "network": "net", "netns": null, "tenant": "blue", "segment": "default", "pod": "web-1",
        "mtu": null, "mac": null});
    let Request::Add(add) = serde_json::from_value(add).unwrap() else { panic!("no ADD") };
    assert_eq!((&*add.segment, add.segment_of), ("default", None));
}

#[test]
fn as_an_ipam_plugin_it_gives_addresses_only() {
    let mut agent = Scripted(
        Reply::Added(Added {
            host_link: None,
            link: None,
            addresses: vec!["10.0.0.1/32".parse().unwrap()],
            routes: vec![],
        }),
        None,
    );
    let stdin = config("1.1.0", json!({"type": "bridge", "ipam": {"type": "romana-cni"}}));
    let output = cni::run(&env(&add()), Ok(stdin.into_bytes()), &mut agent);
    let result: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(result["ips"], json!([{"address": "10.0.0.1/32"}]));
    assert!(result.get("interfaces").is_none());
    assert!(matches!(agent.1, Some(Request::Add(add)) if add.netns.is_none()));
}

#[test]
fn errors_of_the_agent_carry_the_version() {
    let failed = Failed { code: 100, msg: "exhausted".into(), details: "why".into() };
    let mut agent = Scripted(Reply::Failed(failed), None);
    let output = cni::run(&env(&add()), Ok(config("1.0.0", json!({})).into_bytes()), &mut agent);
    let error: Value = serde_json::from_str(&output.stdout).unwrap();
    let expected =
        json!({"cniVersion": "1.0.0", "code": 100, "msg": "exhausted", "details": "why"});
    assert_eq!((output.status, error), (1, expected));
}

proptest! {
    /// Whatever the input, it answers with JSON or with nothing.
    #[test]
    fn it_never_panics(
        command in "(ADD|DEL|CHECK|GC|STATUS|VERSION|.{0,5})",
        id in ".{0,20}",
        ifname in ".{0,20}",
        netns in ".{0,10}",
        args in "[A-Z0-9_=;:.]{0,40}",
        stdin in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..200),
            "\\{\"cniVersion\":\"(1.1.0|0.3.1|.{0,6})\",\"name\":\"n\",\"(prevResult|runtimeConfig|args|ipam|dns|mtu)\":(null|1|\\{\\}|\\[\\]|\\{\"ips\":(1|\\[1\\]|\\[\"x\"\\])\\})\\}"
                .prop_map(String::into_bytes),
        ],
    ) {
        let vars = [("CNI_COMMAND", &*command), ("CNI_CONTAINERID", &*id), ("CNI_IFNAME", &*ifname),
            ("CNI_NETNS", &*netns), ("CNI_ARGS", &*args)];
        let output = cni::run(&env(&vars), Ok(stdin), &mut Scripted(added(), None));
        prop_assert!(output.stdout.is_empty() || serde_json::from_str::<Value>(&output.stdout).is_ok());
        prop_assert_eq!(output.status == 0, !output.stdout.contains("\"code\":"));
    }
}

/// Calls the plugin with this configuration and these variables. Returns the
/// request to the agent, or the error.
fn asked(vars: &[(&str, &str)], stdin: &str) -> Result<Request, Value> {
    let mut agent = Scripted(added(), None);
    let output = cni::run(&env(vars), Ok(stdin.as_bytes().to_vec()), &mut agent);
    agent.1.ok_or_else(|| serde_json::from_str(&output.stdout).expect("JSON"))
}

#[test]
fn null_is_what_go_writes_for_what_is_empty() {
    for member in [
        json!({"runtimeConfig": null}),
        json!({"runtimeConfig": {"ips": null, "mac": null, "portMappings": null}}),
        json!({"runtimeConfig": {"mac": ""}}),
        json!({"args": null, "capabilities": null, "ipam": null, "dns": null}),
        json!({"args": {"cni": null}}),
        json!({"args": {"cni": {"ips": null, "labels": null}}}),
        json!({"tenant": null, "segment": null, "mtu": null, "prevResult": null}),
        json!({"socket": null, "stateDir": null}),
        json!({"ipam": {"type": null}}),
        json!({"ipam": {}}),
    ] {
        let request = asked(&add(), &config("1.1.0", member.clone()));
        let Ok(Request::Add(add)) = request else { panic!("{member}: {request:?}") };
        assert_eq!((add.mac, add.ips.len(), add.labels.len()), (None, 0, 0), "{member}");
        assert_eq!((&*add.tenant, &*add.segment), ("default", "default"), "{member}");
    }
    let nameless = config("1.1.0", json!({"cniVersion": null}));
    assert_eq!(asked(&add(), &nameless).unwrap_err()["code"], 1, "as without a version");
    let gc = [("CNI_COMMAND", "GC"), ("CNI_PATH", "/opt/cni/bin")];
    let empty = config("1.1.0", json!({"cni.dev/valid-attachments": null}));
    assert!(matches!(asked(&gc, &empty), Ok(Request::Gc { valid, .. }) if valid.is_empty()));
    let error = asked(&gc, &config("1.1.0", json!({}))).unwrap_err();
    assert_eq!(error["code"], 7, "a list that is missing removes nothing: {error}");
}

#[test]
fn a_configuration_is_an_object() {
    for text in ["[]", "1", "\"x\"", "null", r#"["1.1.0", "net", "romana-cni"]"#] {
        let (status, error) = exec(&add(), text);
        assert!(status == 1 && error["code"] == 6, "{text}: {error}");
        assert!(error["msg"].as_str().is_some_and(|msg| msg.contains("not a JSON object")));
    }
    for member in [
        json!({"runtimeConfig": []}),
        json!({"args": []}),
        json!({"args": {"cni": []}}),
        json!({"ipam": []}),
        json!({"ipam": "romana-cni"}),
    ] {
        let error = asked(&add(), &config("1.1.0", member.clone())).unwrap_err();
        assert_eq!(error["code"], 6, "{member}: {error}");
    }
}

#[test]
fn arguments_that_nobody_understands_are_refused() {
    let stdin = config("1.1.0", json!({}));
    for (args, refused) in [
        ("", false),
        (";", false),
        ("K8S_POD_NAME=web;K8S_POD_UID=7;K8S_POD_INFRA_CONTAINER_ID=x", false),
        ("FOO=bar", true),
        ("IgnoreUnknown=0;FOO=bar", true),
        ("IgnoreUnknown=1;FOO=bar", false),
        ("FOO=bar;IgnoreUnknown=true", false),
        ("nonsense", true),
        ("IgnoreUnknown=1;nonsense", true),
    ] {
        let mut vars = add();
        vars.push(("CNI_ARGS", args));
        match asked(&vars, &stdin) {
            Ok(_) => assert!(!refused, "{args}"),
            Err(error) => assert!(refused && error["code"] == 4, "{args}: {error}"),
        }
        // A DEL ignores other arguments.
        vars[0] = ("CNI_COMMAND", "DEL");
        assert!(asked(&vars, &stdin).is_ok(), "{args}");
    }
    let mut vars = add();
    vars.push(("CNI_ARGS", "MAC=02:00:00:00:00:07"));
    let Ok(Request::Add(add)) =
        asked(&vars, &config("1.1.0", json!({"runtimeConfig": {"mac": ""}})))
    else {
        panic!("it is understood");
    };
    assert_eq!(add.mac.as_deref(), Some("02:00:00:00:00:07"));
}

#[test]
fn every_error_says_its_version() {
    for (command, stdin, version) in [
        ("FOO", "", "1.1.0"),
        ("FOO", r#"{"cniVersion": "1.0.0"}"#, "1.0.0"),
        ("ADD", r#"{"cniVersion": "0.4.0"}"#, "0.4.0"),
        ("ADD", "{", "1.1.0"),
    ] {
        let (status, error) = exec(&[("CNI_COMMAND", command)], stdin);
        assert_eq!((status, &error["cniVersion"]), (1, &json!(version)), "{error}");
    }
    let mut agent = Scripted(added(), None);
    let unreadable = Err(std::io::Error::other("closed"));
    let output = cni::run(&env(&add()), unreadable, &mut agent);
    assert!(output.stdout.contains(r#""cniVersion":"1.1.0""#), "{}", output.stdout);
}

#[test]
fn addresses_of_another_plugin_are_not_promised() {
    let stdin = config("1.1.0", json!({"ipam": {"type": "host-local"}}));
    let error = asked(&add(), &stdin).unwrap_err();
    assert_eq!(error["code"], 7, "{error}");
    assert!(asked(&with("CNI_COMMAND", "DEL"), &stdin).is_ok());
}
