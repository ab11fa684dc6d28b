//! Every script of `scripts/` on the real etcd and on ours.

fn main() -> std::process::ExitCode {
    conformance::harness::run(conformance::harness::scripts(""))
}
