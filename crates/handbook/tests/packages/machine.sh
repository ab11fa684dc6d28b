# A copy of this machine, sourced by scripts that install a package there and look at its unit.

root=$HERE/root
mkdir "$HERE"/{upper,work,root}
mount -t overlay overlay -o "lowerdir=/,upperdir=$HERE/upper,workdir=$HERE/work" "$root"
trap 'umount "$root"' EXIT
# Somebody else's would be in the way, and so is what keeps services of images from being started.
chroot "$root" dpkg --purge --force-depends etcd etcd-server etcd-client keelson 2>/dev/null || true
rm -f "$root/usr/sbin/policy-rc.d"

# Boots the copy with systemd, and runs there what it finds in /trial.sh.
boot() {
    cat >"$root/etc/systemd/system/trial.service" <<'U'
[Unit]
Requires=basic.target
After=basic.target
SuccessAction=exit
FailureAction=exit
FailureActionExitStatus=3
[Service]
Type=oneshot
ExecStart=/bin/bash /trial.sh
StandardOutput=file:/trial.log
StandardError=inherit
U
    systemd-nspawn -q -D "$root" --boot --private-network --register=no --keep-unit --console=pipe \
        --system-call-filter="landlock_create_ruleset landlock_add_rule landlock_restrict_self" \
        systemd.unit=trial.service >"$HERE/console" 2>&1 || {
        cat "$root/trial.log"
        tail -n 50 "$HERE/console"
        exit 1
    }
    cat "$root/trial.log"
}
