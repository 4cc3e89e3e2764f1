//! The language of the scripts: one command per line, similar to the CLI's arguments.
//!
//! ```text
//! topology JSON | builtin NAME | as shown       plan JSON            (JSON may span lines)
//! host add NAME IP[,IP…] [source=kubernetes] [label=value …]
//! host update NAME [ip=] [addresses=] [labels=a=b,…] [info=…]
//! host up|down|draining NAME [term=N]           host remove NAME [force]
//! report NAME rN [ADDRESS-NAME …]               cooldowns [term=N]
//! allocate NAME on HOST for TENANT/SEGMENT [network=N] [ip=IP]      release NAME-OR-IP
//! attached HOST rN @MILLIS [NAME IP TENANT/SEGMENT …] [kept=NAME,…]
//! claim NAME of RESERVE on HOST for TENANT/SEGMENT since MILLIS
//! blackout add|remove CIDR                      set [address_reuse_delay_ms=N] [vip_lease_ms=N]
//! tenant create|delete ID [label=value …]       segment create|delete TENANT/ID [label=value …]
//! policy JSON (the model) | document JSON (as operators write it) | policy remove NAME
//! endpoint set IP on HOST for TENANT/SEGMENT [port:NAME=tcp/80 …] [label=value …]   endpoint remove IP
//! vip request NAME IP [HOST …] | assign NAME HOST [term=N] | unassign NAME [term=N] | remove NAME
//! vip pools [NAME=RANGE,… …]                    vip pooled NAME [pool=NAME] [family=ipv4|ipv6] [HOST …]
//! vip place NAME FROM TO REASON [since=REVISION] [agent=ID] [term=N]       (`-`: no host)
//! show moves [HOST=SUBNET,… …]   where VIPs are to go, if the agents of these hosts renew
//! router assign PREFIX TABLE HOST [term=N]      router unassign PREFIX TABLE [term=N]
//! version N                                     do JSON (any command, as in POST /v1/batch)
//! restore CLUSTER from SOURCE                   (continues as a new cluster)
//! @MILLIS | @+MILLIS   entry time      term N   term of the entries      show WHAT [ARGUMENTS]
//! # comment
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;

use romana_statemachine::command::{
    AllocateAddress, AssignRouter, AssignVip, Attached, Blackout, ClaimReserve, EndCooldowns,
    Endpoint, EndpointRef, HostChange, HostReport, HostSource, HostSpec, HostState, NamedPort,
    PlaceVip, PolicyRef, RaiseVersion, ReleaseAddress, RemoveHost, ReportAttachments, SegmentRef,
    SegmentSpec, SetHostState, SetVipPools, SettingsChange, TenantRef, TenantSpec, UnassignRouter,
    UnassignVip, VipFromPool, VipPoolSpec, VipRef, VipSpec,
};
use romana_statemachine::policy::document;
use romana_statemachine::topology::{TopologySpec, builtin};
use romana_statemachine::{Command, Labels, Millis, Revision, Term};

/// One step of a script.
pub(crate) enum Step {
    /// Commands to apply, each in a separate entry.
    Apply(Vec<Command>),
    /// A document that is refused before it becomes commands.
    Refused(romana_statemachine::Refusal),
    /// Set the current topology, in the form in which it is shown.
    AsShown,
    /// Set the clock.
    At(u64),
    /// Advance the clock.
    After(u64),
    /// Set the term.
    Term(u64),
    /// Show a part of the state.
    Show(Vec<String>),
    /// Continue as a new cluster that was restored from a backup of this one.
    Restore {
        cluster: String,
        source: String,
    },
    Plan(TopologySpec),
}

/// Parses the commands of a block. `term` is the default for leader tasks.
pub(crate) fn parse(text: &str, mut term: u64) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let mut line = line.trim().to_string();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if line.contains('{') {
            while open_brackets(&line) > 0 {
                let next = lines.next().ok_or_else(|| format!("unfinished JSON: {line}"))?;
                line.push_str(next.trim());
            }
        }
        let step = step(&line, term).map_err(|why| format!("{line}: {why}"))?;
        if let Step::Term(new) = step {
            term = new;
        }
        steps.push(step);
    }
    Ok(steps)
}

fn open_brackets(text: &str) -> i64 {
    let count = |c: char| i64::try_from(text.matches(c).count()).unwrap_or(0);
    count('{') + count('[') - count('}') - count(']')
}

fn step(line: &str, term: u64) -> Result<Step, String> {
    if let Some(at) = line.strip_prefix("@+") {
        return number(at).map(Step::After);
    }
    if let Some(at) = line.strip_prefix('@') {
        return number(at).map(Step::At);
    }
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    match word {
        "term" => number(rest).map(Step::Term),
        "topology" if rest == "as shown" => Ok(Step::AsShown),
        "show" => Ok(Step::Show(rest.split(' ').map(String::from).collect())),
        "plan" => json(rest).map(Step::Plan),
        "restore" => {
            let (cluster, source) = rest.split_once(" from ").ok_or("restore X from Y")?;
            Ok(Step::Restore { cluster: cluster.into(), source: source.into() })
        }
        "document" => Ok(match document::parse(&json(rest)?) {
            Ok(policies) => Step::Apply(policies.into_iter().map(Command::SetPolicy).collect()),
            Err(refusal) => Step::Refused(refusal),
        }),
        _ => command(word, rest, term).map(|command| Step::Apply(vec![command])),
    }
}

/// `attached HOST rREVISION @MS NAME IP TENANT/SEGMENT … kept=NAME,…`
fn attached(args: &mut Args) -> Result<Command, String> {
    let kept = args.take("kept").unwrap_or_default();
    let host = args.next()?.into();
    let revision = number(args.next()?.trim_start_matches('r'))?;
    let at = Millis(number(args.next()?.trim_start_matches('@'))?);
    let mut running = Vec::new();
    for words in args.rest().chunks(3) {
        let [name, ip, owner] = words else { return Err("NAME IP OWNER".into()) };
        let ip = ip.parse().map_err(|_| "no address")?;
        let (tenant, segment) = owner.split_once('/').ok_or("TENANT/SEGMENT")?;
        let (tenant, segment) = (tenant.into(), segment.into());
        running.push(Attached { name: name.as_str().into(), ip, tenant, segment });
    }
    let kept = kept.split(',').filter(|name| !name.is_empty()).map(Into::into).collect();
    let report = ReportAttachments { host, revision: Revision(revision), at, running, kept };
    Ok(Command::ReportAttachments(report))
}

/// `claim NAME of RESERVE on HOST for TENANT/SEGMENT since MS`
fn claim(args: &mut Args) -> Result<Command, String> {
    let name = args.next()?.into();
    args.keyword("of")?;
    let reserve = args.next()?.into();
    args.keyword("on")?;
    let host = args.next()?.into();
    args.keyword("for")?;
    let owner = args.next()?;
    let (tenant, segment) = owner.split_once('/').ok_or("TENANT/SEGMENT")?;
    args.keyword("since")?;
    let since = Millis(number(args.next()?.as_str())?);
    let (tenant, segment) = (tenant.into(), segment.into());
    Ok(Command::ClaimReserve(ClaimReserve { reserve, name, host, tenant, segment, since }))
}

fn command(word: &str, rest: &str, term: u64) -> Result<Command, String> {
    let mut args = Args::new(rest);
    if rest.starts_with('{') {
        return Ok(match word {
            "topology" => Command::SetTopology(json(rest)?),
            "policy" => Command::SetPolicy(json(rest)?),
            "do" => json(rest)?,
            _ => return Err(String::from("takes no JSON")),
        });
    }
    let command = match word {
        "topology" => {
            args.keyword("builtin")?;
            let name = args.next()?;
            Command::SetTopology(builtin(&name).ok_or("no such built-in topology")?)
        }
        "host" => host(&mut args)?,
        "report" => {
            let host = args.next()?.into();
            let revision = number(args.next()?.trim_start_matches('r'))?;
            let running = args.rest().into_iter().map(Into::into).collect();
            Command::ReportHost(HostReport { host, revision: Revision(revision), running })
        }
        "attached" => attached(&mut args)?,
        "claim" => claim(&mut args)?,
        "allocate" => allocate(&mut args)?,
        "release" => Command::ReleaseAddress(ReleaseAddress { address: args.next()?.into() }),
        "blackout" => match &*args.next()? {
            "add" => Command::AddBlackout(Blackout { cidr: args.next()? }),
            _ => Command::RemoveBlackout(Blackout { cidr: args.next()? }),
        },
        "set" => Command::ChangeSettings(SettingsChange {
            address_reuse_delay_ms: args
                .take("address_reuse_delay_ms")
                .map(|v| number(&v))
                .transpose()?,
            vip_lease_ms: args.take("vip_lease_ms").map(|v| number(&v)).transpose()?,
        }),
        "cooldowns" => Command::EndCooldowns(EndCooldowns { term: Term(args.term(term)?) }),
        "tenant" | "segment" => owner(word, &mut args)?,
        "policy" => {
            args.keyword("remove")?;
            Command::RemovePolicy(PolicyRef { name: args.next()?.into() })
        }
        "endpoint" => endpoint(&mut args)?,
        "vip" => vip(&mut args, term)?,
        "router" => router(&mut args, term)?,
        "version" => {
            let version = args.next()?.parse().map_err(|_| "no version")?;
            Command::RaiseVersion(RaiseVersion { version })
        }
        _ => return Err(String::from("no such command")),
    };
    args.end()?;
    Ok(command)
}

fn host(args: &mut Args) -> Result<Command, String> {
    let verb = args.next()?;
    let name = args.next()?.into();
    let state = match verb.as_str() {
        "add" => {
            let mut ips = args.next()?.split(',').map(ip).collect::<Result<Vec<_>, _>>()?;
            let ip = ips.remove(0);
            let source = match args.take("source").as_deref() {
                None => HostSource::Operator,
                Some("kubernetes") => HostSource::Kubernetes,
                Some(_) => HostSource::Topology,
            };
            let info = args.take("info").map(|info| pairs(&info)).unwrap_or_default();
            let labels = args.labels();
            let spec = HostSpec { name, ip, addresses: ips, labels, info, source };
            return Ok(Command::AddHost(spec));
        }
        "update" => {
            let list = |ips: String| ips.split(',').filter(|ip| !ip.is_empty()).map(ip).collect();
            return Ok(Command::UpdateHost(HostChange {
                name,
                ip: args.take("ip").map(|text| ip(&text)).transpose()?,
                addresses: args.take("addresses").map(list).transpose()?,
                labels: args.take("labels").map(|labels| pairs(&labels)),
                info: args.take("info").map(|info| pairs(&info)),
            }));
        }
        "remove" => {
            let force = args.rest() == ["force"];
            return Ok(Command::RemoveHost(RemoveHost { name, force }));
        }
        "up" => HostState::Up,
        "down" => HostState::Down,
        "draining" => HostState::Draining,
        _ => return Err(String::from("host add, update, up, down, draining or remove")),
    };
    let term = args.take("term").map(|term| number(&term)).transpose()?.map(Term);
    Ok(Command::SetHostState(SetHostState { name, state, term }))
}

fn allocate(args: &mut Args) -> Result<Command, String> {
    let name = args.next()?.into();
    args.keyword("on")?;
    let host = args.next()?.into();
    args.keyword("for")?;
    let (tenant, segment) = slash(&args.next()?)?;
    let network = args.take("network").map(Into::into);
    let ip = args.take("ip").map(|text| ip(&text)).transpose()?;
    let (tenant, segment) = (tenant.into(), segment.into());
    Ok(Command::AllocateAddress(AllocateAddress { name, host, tenant, segment, network, ip }))
}

fn owner(word: &str, args: &mut Args) -> Result<Command, String> {
    let (verb, name) = (args.next()?, args.next()?);
    let labels = args.labels();
    if word == "tenant" {
        let id = name.into();
        return Ok(match verb.as_str() {
            "create" => Command::CreateTenant(TenantSpec { id, labels }),
            _ => Command::DeleteTenant(TenantRef { id }),
        });
    }
    let (tenant, id) = slash(&name)?;
    let (tenant, id) = (tenant.into(), id.into());
    Ok(match verb.as_str() {
        "create" => Command::CreateSegment(SegmentSpec { tenant, id, labels }),
        _ => Command::DeleteSegment(SegmentRef { tenant, id }),
    })
}

fn endpoint(args: &mut Args) -> Result<Command, String> {
    let verb = args.next()?;
    let ip = ip(&args.next()?)?;
    if verb == "remove" {
        return Ok(Command::RemoveEndpoint(EndpointRef { ip }));
    }
    args.keyword("on")?;
    let host = args.next()?.into();
    args.keyword("for")?;
    let (tenant, segment) = slash(&args.next()?)?;
    let mut ports = Vec::new();
    let mut labels = Labels::new();
    for (key, value) in args.labels_in_order() {
        match key.strip_prefix("port:") {
            None => _ = labels.insert(key, value),
            Some(name) => {
                let (protocol, port) = slash(&value)?;
                let protocol = json(&format!("\"{protocol}\""))?;
                let port = port.parse().map_err(|_| "no port")?;
                ports.push(NamedPort { name: name.into(), protocol, port });
            }
        }
    }
    let (tenant, segment) = (tenant.into(), segment.into());
    Ok(Command::SetEndpoint(Endpoint { ip, tenant, segment, host, labels, ports }))
}

fn vip(args: &mut Args, term: u64) -> Result<Command, String> {
    let verb = args.next()?;
    if verb == "pools" {
        let pool = |(name, ranges): (String, String)| {
            let ranges = ranges.split(',').map(String::from).collect();
            VipPoolSpec { name: name.into(), ranges }
        };
        let pools = args.labels_in_order().into_iter().map(pool).collect();
        return Ok(Command::SetVipPools(SetVipPools { pools }));
    }
    let name = args.next()?.into();
    Ok(match verb.as_str() {
        "pooled" => {
            let pool = args.take("pool").map(Into::into);
            let family = args.take("family").map(|family| json(&format!("\"{family}\"")));
            let family = family.transpose()?;
            let candidates = args.rest().into_iter().map(Into::into).collect();
            Command::RequestVipFromPool(VipFromPool { name, pool, family, candidates })
        }
        "request" => {
            let ip = ip(&args.next()?)?;
            let candidates = args.rest().into_iter().map(Into::into).collect();
            Command::RequestVip(VipSpec { name, ip, candidates })
        }
        "assign" => {
            let term = args.term(term)?;
            Command::AssignVip(AssignVip { name, host: args.next()?.into(), term: Term(term) })
        }
        "place" => {
            let term = args.term(term)?;
            let mut host = || args.next().map(|name| (name != "-").then(|| name.into()));
            let (from, to) = (host()?, host()?);
            let since = args.take("since").map(|since| number(&since)).transpose()?.map(Revision);
            let agent = args.take("agent").map(Into::into);
            let reason = json(&format!("\"{}\"", args.next()?))?;
            Command::PlaceVip(PlaceVip { name, from, since, to, agent, reason, term: Term(term) })
        }
        "unassign" => Command::UnassignVip(UnassignVip { name, term: Term(args.term(term)?) }),
        _ => Command::RemoveVip(VipRef { name }),
    })
}

fn router(args: &mut Args, term: u64) -> Result<Command, String> {
    let term = args.term(term)?;
    let verb = args.next()?;
    let prefix = args.next()?.parse().map_err(|_| "no prefix")?;
    let table = args.next()?.into();
    Ok(match verb.as_str() {
        "assign" => {
            let host = args.next()?.into();
            Command::AssignRouter(AssignRouter { prefix, table, host, term: Term(term) })
        }
        _ => Command::UnassignRouter(UnassignRouter { prefix, table, term: Term(term) }),
    })
}

/// The words of a line.
struct Args(Vec<String>);

impl Args {
    /// Words are separated by spaces; a word in double quotes is parsed as JSON text.
    fn new(text: &str) -> Self {
        let mut words = Vec::new();
        let mut rest = text.trim_start();
        while !rest.is_empty() {
            let quoted = rest.starts_with('"').then(|| rest[1..].find('"')).flatten();
            let end = match quoted {
                Some(end) => end + 2,
                None => rest.find(' ').unwrap_or(rest.len()),
            };
            let word = &rest[..end];
            words.push(serde_json::from_str(word).unwrap_or_else(|_| word.to_string()));
            rest = rest[end..].trim_start();
        }
        // A bare number is valid JSON as well, but stays a word.
        Self(words)
    }

    fn next(&mut self) -> Result<String, String> {
        if self.0.is_empty() {
            Err(String::from("a word is missing"))
        } else {
            Ok(self.0.remove(0))
        }
    }

    fn keyword(&mut self, word: &str) -> Result<(), String> {
        let next = self.next()?;
        if next == word { Ok(()) } else { Err(format!("{word} expected, not {next}")) }
    }

    /// Removes the argument `key=value`, at any position, and returns the value.
    fn take(&mut self, key: &str) -> Option<String> {
        let prefix = format!("{key}=");
        let at = self.0.iter().position(|word| word.starts_with(&prefix))?;
        Some(self.0.remove(at)[prefix.len()..].to_string())
    }

    fn term(&mut self, default: u64) -> Result<u64, String> {
        self.take("term").map_or(Ok(default), |term| number(&term))
    }

    fn labels(&mut self) -> Labels {
        self.labels_in_order().into_iter().collect()
    }

    fn labels_in_order(&mut self) -> Vec<(String, String)> {
        let pair = |word: &String| {
            let (key, value) = word.split_once('=')?;
            Some((key.to_string(), value.to_string()))
        };
        self.rest().iter().filter_map(pair).collect()
    }

    fn rest(&mut self) -> Vec<String> {
        std::mem::take(&mut self.0)
    }

    fn end(&self) -> Result<(), String> {
        if self.0.is_empty() { Ok(()) } else { Err(format!("superfluous: {:?}", self.0)) }
    }
}

fn pairs(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

fn json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

fn ip(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("{text} is no address"))
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text} is no number"))
}

fn slash(text: &str) -> Result<(String, String), String> {
    let (a, b) = text.split_once('/').ok_or_else(|| format!("{text} has no slash"))?;
    Ok((a.to_string(), b.to_string()))
}
