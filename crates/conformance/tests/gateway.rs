//! Every script of `scripts/gateway/`: JSON over HTTP on the real etcd and on ours, compared byte for byte.

fn main() -> std::process::ExitCode {
    conformance::harness::run(conformance::harness::scripts("gateway"))
}
