//! Feature gates: switches for features that are not everybody's yet (`--feature-gates A=true,B=false`).

use std::fmt;

/// How sure a feature is of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Stage {
    Alpha,
    Beta,
}

impl Stage {
    /// The label that metric `etcd_server_feature_enabled` carries.
    pub fn label(self) -> &'static str {
        match self {
            Stage::Alpha => "ALPHA",
            Stage::Beta => "BETA",
        }
    }
}

macro_rules! gates {
    ($($(#[$doc:meta])* $gate:ident = $name:literal, $stage:ident, $default:literal;)*) => {
        /// One gate.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Gate { $($(#[$doc])* $gate,)* }

        impl Gate {
            /// Every gate, in the order of etcd's documentation.
            pub const ALL: &[Gate] = &[$(Gate::$gate),*];

            /// Name, stage and default.
            fn parts(self) -> (&'static str, Stage, bool) {
                match self { $(Gate::$gate => ($name, Stage::$stage, $default),)* }
            }
        }
    };
}

gates! {
    /// The health service says NOT_SERVING while a defragmentation runs.
    StopGrpcServiceOnDefrag = "StopGRPCServiceOnDefrag", Alpha, false;
    /// Compare the store's hash with the peers' before serving.
    InitialCorruptCheck = "InitialCorruptCheck", Alpha, false;
    /// The leader compares hashes at compactions.
    CompactHashCheck = "CompactHashCheck", Alpha, false;
    /// Reads of a write transaction share one buffer.
    TxnModeWriteWithSharedBuffer = "TxnModeWriteWithSharedBuffer", Beta, true;
    /// The leader replicates the remaining time of leases.
    LeaseCheckpoint = "LeaseCheckpoint", Alpha, false;
    /// The remaining time of leases is stored.
    LeaseCheckpointPersist = "LeaseCheckpointPersist", Alpha, false;
    /// Peers are dialled from the advertised local address.
    SetMemberLocalAddr = "SetMemberLocalAddr", Alpha, false;
    /// Renewing a known lease waits for no applied index.
    FastLeaseKeepAlive = "FastLeaseKeepAlive", Beta, true;
    /// Critical requests may find a longer backlog before they are refused.
    PriorityRequest = "PriorityRequest", Alpha, false;
    /// Every alpha gate that is not set by name.
    AllAlpha = "AllAlpha", Alpha, false;
    /// Every beta gate that is not set by name.
    AllBeta = "AllBeta", Beta, false;
}

impl Gate {
    /// The name users write.
    pub fn name(self) -> &'static str {
        self.parts().0
    }

    /// The stage; `AllAlpha` and `AllBeta` switch the gates of theirs.
    pub fn stage(self) -> Stage {
        self.parts().1
    }

    fn is_group(self) -> bool {
        matches!(self, Gate::AllAlpha | Gate::AllBeta)
    }
}

/// The state of every gate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gates {
    /// What users set, in order; the last setting of a gate holds.
    set: Vec<(Gate, bool)>,
}

impl Gates {
    /// Whether `gate` is on: set by name, else by its group, else by default.
    pub fn enabled(&self, gate: Gate) -> bool {
        let (_, stage, default) = gate.parts();
        let group = match stage {
            Stage::Alpha => Gate::AllAlpha,
            Stage::Beta => Gate::AllBeta,
        };
        let by_group = || self.setting(group).filter(|_| !gate.is_group());
        self.setting(gate).or_else(by_group).unwrap_or(default)
    }

    /// Turns a gate on or off.
    pub fn set(&mut self, gate: Gate, on: bool) {
        self.set.push((gate, on));
    }

    /// Turns on and off what others do, after what was set so far.
    pub fn extend(&mut self, others: Gates) {
        self.set.extend(others.set);
    }

    /// Parses `A=true,B=false`; the error is in etcd's words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut gates = Gates::default();
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let (name, value) = item
                .split_once('=')
                .ok_or_else(|| format!("missing bool value for {item}"))?;
            let (name, value) = (name.trim(), value.trim());
            let gate = Gate::ALL
                .iter()
                .find(|gate| gate.name() == name)
                .ok_or_else(|| format!("unrecognized feature gate: {name}"))?;
            let on = crate::go::parse_bool(value).ok_or_else(|| {
                format!(
                    "invalid value of {name}={value}, err: strconv.ParseBool: parsing {value:?}: invalid syntax"
                )
            })?;
            gates.set(*gate, on);
        }
        Ok(gates)
    }

    fn setting(&self, gate: Gate) -> Option<bool> {
        self.set
            .iter()
            .rev()
            .find_map(|(set, on)| (*set == gate).then_some(*on))
    }
}

/// `A=true,B=false`, as [`Gates::parse`] reads it.
impl fmt::Display for Gates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (gate, on)) in self.set.iter().enumerate() {
            write!(f, "{}{}={on}", if i == 0 { "" } else { "," }, gate.name())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_beats_its_group_and_a_group_beats_the_default() {
        let gates = Gates::parse("AllAlpha=true,LeaseCheckpoint=false, AllBeta=false").unwrap();
        assert!(gates.enabled(Gate::CompactHashCheck));
        assert!(!gates.enabled(Gate::LeaseCheckpoint));
        assert!(!gates.enabled(Gate::FastLeaseKeepAlive));
        assert!(Gates::default().enabled(Gate::FastLeaseKeepAlive));
        assert!(!Gates::default().enabled(Gate::AllAlpha));
        assert_eq!(Gates::parse(&gates.to_string()), Ok(gates));
    }

    #[test]
    fn refusals_are_in_etcds_words() {
        let refusal = |text| Gates::parse(text).unwrap_err();
        assert_eq!(refusal("X=true"), "unrecognized feature gate: X");
        assert_eq!(
            refusal("CompactHashCheck"),
            "missing bool value for CompactHashCheck"
        );
        assert_eq!(
            refusal("CompactHashCheck=y"),
            "invalid value of CompactHashCheck=y, err: strconv.ParseBool: parsing \"y\": invalid syntax"
        );
    }
}
