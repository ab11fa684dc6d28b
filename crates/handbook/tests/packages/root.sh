# The static programs in a root that has nothing else but the two files names are looked up with, not even /dev: they
# start, find names in the file of hosts and in the DNS, and speak TLS.
inside() {
    ip link set lo up
    ip addr add 192.0.2.11/32 dev lo
    dnsmasq --no-hosts --no-resolv --listen-address=127.0.0.53 --bind-interfaces --user=root --pid-file= \
        --address=/etcd2.example/127.0.0.12 --keep-in-foreground 2>dns.log &
    run() { env -i PATH=/usr/local/bin "$(command -v chroot)" root "$@"; }
    run etcd --name=m --data-dir=/data --listen-metrics-urls=http://127.0.0.12:2381 \
        --cert-file=/pki/server.crt --key-file=/pki/server.key --trusted-ca-file=/pki/ca.crt --client-cert-auth \
        --peer-cert-file=/pki/server.crt --peer-key-file=/pki/server.key --peer-trusted-ca-file=/pki/ca.crt \
        --listen-client-urls=https://127.0.0.11:2379,https://127.0.0.12:2379,http://127.0.0.13:2379 \
        --advertise-client-urls=https://etcd1:2379,https://etcd2.example:2379 \
        --listen-peer-urls=https://127.0.0.12:2380 --initial-advertise-peer-urls=https://etcd2.example:2380 \
        --initial-cluster=m=https://etcd2.example:2380 2>log &
    local server=$!
    until grep "ready to serve client requests" log; do
        kill -0 "$server" || { cat log; return 1; }
        sleep 0.1
    done
    run etcd healthcheck http://etcd2.example:2381
    certificates=(--cacert=/pki/ca.crt --cert=/pki/server.crt --key=/pki/server.key)
    run etcdctl "${certificates[@]}" --endpoints=https://etcd2.example:2379 put a 1
    run etcdctl "${certificates[@]}" --endpoints=https://etcd1:2379 get a | grep '^1$'
    # Without authorities, plain connections are good, and no certificate is believed.
    run etcdctl --endpoints=http://127.0.0.13:2379 get a | grep '^1$'
    if run etcdctl --endpoints=https://etcd1:2379 get a; then return 1; fi
    # A call is tried again after a pause, whose length is a matter of chance.
    if run etcdctl --endpoints=http://127.0.0.14:2379 get a 2>refused; then return 1; fi
    grep 'refused the connection' refused
    # Other sources of names that a machine may have are passed over.
    echo 'hosts: files mdns4_minimal [NOTFOUND=return] resolve dns myhostname' >root/etc/nsswitch.conf
    run etcdctl "${certificates[@]}" --endpoints=https://etcd2.example:2379 endpoint health
    run etcdctl --endpoints=http://127.0.0.13:2379 snapshot save /backup
    run etcdutl snapshot status /backup
    run etcdutl version
}

cd "$HERE"
mkdir -p root/{usr/local/bin,etc,pki}
for program in etcd etcdctl etcdutl; do
    ldd "$KEELSON_STATIC/$program" 2>&1 | grep -E 'statically linked|not a dynamic executable'
    # What the C library would look names up with is not linked in.
    if grep -aq -e nsswitch.conf -e getaddrinfo "$KEELSON_STATIC/$program"; then exit 1; fi
    cp "$KEELSON_STATIC/$program" root/usr/local/bin/
done
printf '127.0.0.1 localhost\n127.0.0.11 etcd1\n' >root/etc/hosts
echo 'nameserver 127.0.0.53' >root/etc/resolv.conf
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=ca -keyout ca.key -out root/pki/ca.crt
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=m -keyout root/pki/server.key -out m.csr
openssl x509 -req -in m.csr -CA root/pki/ca.crt -CAkey ca.key -CAcreateserial -days 1 -out root/pki/server.crt \
    -extfile <(echo subjectAltName=DNS:etcd1,DNS:etcd2.example)
export -f inside
unshare --net --pid --fork --kill-child bash -eEuo pipefail -xc inside
