# The RPM. Where the machine's rpm knows nothing of systemd, as Debian's, its macros have stand-ins that do nothing.
macros=()
if [ "$(rpm --eval '%{_unitdir}')" = '%{_unitdir}' ]; then
    macros+=(--define '_unitdir /usr/lib/systemd/system' --define '_sysusersdir /usr/lib/sysusers.d')
    macros+=(--define '_tmpfilesdir /usr/lib/tmpfiles.d')
    for macro in systemd_post systemd_preun systemd_postun_with_restart sysusers_create_compat tmpfiles_create; do
        macros+=(--define "$macro() %{nil}")
    done
fi
rpmbuild -bb --nodeps deploy/rpm/etcd.spec --define "_topdir $HERE" --define "_sourcedir $PWD" \
    --define "programs $PROGRAMS" "${macros[@]}"
package=$(find "$HERE/RPMS" -name 'keelson-*.rpm')
contents=$(rpm -qp --queryformat '[%{FILEMODES:perms} %{FILEUSERNAME} %{FILENAMES}\n]' "$package")
for line in "-rwxr-xr-x root /usr/bin/etcd" "-rwxr-xr-x root /usr/bin/etcdctl" "-rwxr-xr-x root /usr/bin/etcdutl" \
    "-rw-r--r-- root /etc/etcd/etcd.conf" "-rw-r--r-- root /usr/lib/systemd/system/etcd.service" \
    "-rw-r--r-- root /usr/lib/sysusers.d/etcd.conf" "-rw-r--r-- root /usr/lib/tmpfiles.d/etcd.conf"; do
    grep -Fx -- "$line" <<<"$contents"
done
rpm -qp --provides "$package" | grep -x 'etcd = 3.7.1'
rpm -qpc "$package" | grep -x /etc/etcd/etcd.conf
# Into a root of its own, as far as that goes without its libraries.
rpm --root "$HERE/root" --dbpath /rpm -i --nodeps --noscripts "$package"
"$HERE/root/usr/bin/etcd" --version
