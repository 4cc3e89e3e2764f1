//! Plays the calls of Romana 2.0's Neutron driver (networking-romana) against a real replica: the same requests, byte by
//! byte as Python's urllib sends them, and what the driver reads out of the answers.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};

use serde_json::{Value, json};

use crate::real::Dev;

const PROJECT: &str = "5c7f3f2b8d0e4a6f9b1c2d3e4f5a6b7c";
const PORTS: [&str; 3] = [
    "0a1b2c3d-1111-4222-8333-444455556666",
    "0a1b2c3d-7777-4888-8999-aaaabbbbcccc",
    "0a1b2c3d-dddd-4eee-8fff-000011112222",
];

/// The driver's `http_call`: it raises for a status of 400 or more, and parses the body as JSON otherwise.
struct Driver<'a>(&'a Dev);

impl Driver<'_> {
    fn call(
        &self,
        method: &str,
        target: &str,
        data: Option<&Value>,
    ) -> Result<Value, (u16, Value)> {
        let mut head = format!(
            "{method} {target} HTTP/1.1\r\nAccept-Encoding: identity\r\nHost: 127.0.0.1:{}\r\n\
             User-Agent: Python-urllib/2.7\r\nConnection: close\r\nAccept: application/json\r\n",
            self.0.api
        );
        let body = data.map(ToString::to_string).unwrap_or_default();
        if data.is_some() {
            head +=
                &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        }
        let mut stream = TcpStream::connect(("127.0.0.1", self.0.api)).unwrap();
        write!(stream, "{head}\r\n{body}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status: u16 = head.split_whitespace().nth(1).unwrap().parse().unwrap();
        let parsed = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"));
        if status >= 400 { Err((status, parsed)) } else { Ok(parsed) }
    }

    /// `RomanaDbSubnet.allocate`.
    fn allocate(&self, port: &str, host: &str) -> Result<IpAddr, (u16, Value)> {
        let body = json!({"name": port, "host": host, "tenant": PROJECT, "segment": "default"});
        let answer = self.call("POST", "/address", Some(&body))?;
        Ok(answer.as_str().expect("the address as a JSON string").parse().unwrap())
    }

    /// `RomanaDbSubnet.deallocate`, by the address.
    fn deallocate(&self, ip: IpAddr) {
        let target = format!("/address?addressName={ip}");
        assert_eq!(self.call("DELETE", &target, None), Ok(Value::Null));
    }

    /// What a DHCP port gets: the address of its host.
    fn host_ip(&self, name: &str) -> Option<String> {
        let hosts = self.call("GET", "/hosts", None).unwrap();
        let hosts = hosts["hosts"].as_array().unwrap().clone();
        let host = hosts.iter().find(|host| host["name"] == name)?;
        host["ip"].as_str().map(str::to_owned)
    }
}

fn furnished() -> Dev {
    let dev = Dev::start();
    dev.file("topology.json", include_str!("../../src/demo/topology.json"));
    dev.ok("topology update topology.json");
    dev.ok("host add compute-1 192.168.0.1 --label rack=rack-1");
    dev.ok("host add compute-2 192.168.0.2 --label rack=rack-2");
    dev
}

/// The error's form in 2.0, with its text.
fn is_error(error: &(u16, Value), status: u16, kind: &str, id: &str) -> bool {
    let (found, body) = error;
    *found == status
        && body["status_code"] == status
        && body["details"].as_str().is_some_and(|text| !text.is_empty())
        && body["resource_type"] == kind
        && body["resource_id"] == id
        && body["see_also"] == ""
}

#[test]
fn ports_come_and_go_as_neutron_has_them() {
    let dev = furnished();
    let driver = Driver(&dev);
    let first = driver.allocate(PORTS[0], "compute-1").unwrap();
    assert_eq!(first.to_string(), "10.111.0.0");
    // Neutron tries again after a timeout: the same port has the same address.
    assert_eq!(driver.allocate(PORTS[0], "compute-1"), Ok(first));
    let second = driver.allocate(PORTS[1], "compute-2").unwrap();
    assert_eq!(second.to_string(), "10.111.64.0");
    let shown = dev.json(&format!("address show {}", PORTS[1]));
    assert_eq!((&shown["tenant"], &shown["segment"]), (&json!(PROJECT), &json!("default")));
    assert_eq!(driver.host_ip("compute-2").as_deref(), Some("192.168.0.2"));
    assert_eq!(driver.host_ip("compute-9"), None);
    // Live migration: the port leaves one host and is bound to another.
    driver.deallocate(first);
    let moved = driver.allocate(PORTS[0], "compute-2").unwrap();
    assert_eq!(dev.json(&format!("address show {moved}"))["host"], "compute-2");
    // Deleting twice is no error: Neutron's clean-up does it.
    driver.deallocate(moved);
    driver.deallocate(moved);
    // By the port's id, and by the other parameter that clients use.
    let by_name = format!("/address?addressName={}", PORTS[1]);
    assert_eq!(driver.call("DELETE", &by_name, None), Ok(Value::Null));
    let third = driver.allocate(PORTS[2], "compute-1").unwrap();
    assert_eq!(
        driver.call("DELETE", &format!("/address?addressIP={third}"), None),
        Ok(Value::Null)
    );
    assert_eq!(dev.json("address list")["items"], json!([]));
}

#[test]
fn errors_have_the_form_that_the_driver_reads() {
    let dev = furnished();
    let driver = Driver(&dev);
    let unknown = driver.allocate(PORTS[0], "compute-9").unwrap_err();
    assert!(is_error(&unknown, 404, "host", "compute-9"), "{unknown:?}");
    driver.allocate(PORTS[0], "compute-1").unwrap();
    let taken = driver.allocate(PORTS[0], "compute-2").unwrap_err();
    assert!(taken.0 == 409 && taken.1["code"] == "AddressNameInUse", "{taken:?}");
    for (port, host) in [("", "compute-1"), (PORTS[1], "")] {
        let empty = driver.allocate(port, host).unwrap_err();
        assert!((400..500).contains(&empty.0) && empty.1["details"] != "", "{empty:?}");
    }
    let nothing = driver.call("DELETE", "/address", None).unwrap_err();
    assert!(is_error(&nothing, 400, "", ""), "{nothing:?}");
    let malformed = driver.call("POST", "/address", Some(&json!([1]))).unwrap_err();
    assert!(malformed.0 == 400 && malformed.1["status_code"] == 400, "{malformed:?}");
    let network = driver.call("GET", "/networks/none/blocks", None).unwrap_err();
    assert!(is_error(&network, 404, "network", "none"), "{network:?}");
    // No topology yet: the driver is told what is missing.
    let bare = Dev::start();
    let refused = Driver(&bare).allocate(PORTS[0], "compute-1").unwrap_err();
    assert!(refused.0 >= 400 && refused.1["details"].is_string(), "{refused:?}");
}

#[test]
fn what_an_operator_reads_is_as_in_2_0() {
    let dev = furnished();
    let driver = Driver(&dev);
    driver.allocate(PORTS[0], "compute-1").unwrap();
    let networks = driver.call("GET", "/networks", None).unwrap();
    assert_eq!(
        (&networks[0]["id"], &networks[0]["cidr"]),
        (&json!("my-network"), &json!("10.111.0.0/16"))
    );
    let blocks = driver.call("GET", "/networks/my-network/blocks", None).unwrap();
    let block = &blocks["blocks"][0];
    assert_eq!((&block["tenant"], &block["host"]), (&json!(PROJECT), &json!("compute-1")));
    assert_eq!(block["allocated_ip_count"], 1);
    let policy = json!({"id": "pol-ssh-vm", "direction": "ingress",
        "applied_to": [{"tenant_id": PROJECT, "segment_id": "default"}],
        "ingress": [{"peers": [{"peer": "any"}], "rules": [{"protocol": "TCP", "ports": [22]}]}]});
    assert_eq!(driver.call("POST", "/policies", Some(&policy)), Ok(Value::Null));
    let policies = driver.call("GET", "/policies", None).unwrap();
    assert_eq!(policies[0]["id"], "pol-ssh-vm");
    assert_eq!(
        driver.call("DELETE", "/policies", Some(&json!({"id": "pol-ssh-vm"}))),
        Ok(Value::Null)
    );
    let host = json!({"name": "compute-3", "ip": "192.168.0.3", "tags": {"rack": "rack-3"}});
    assert_eq!(driver.call("POST", "/hosts", Some(&host)), Ok(Value::Null));
    assert_eq!(driver.host_ip("compute-3").as_deref(), Some("192.168.0.3"));
}
