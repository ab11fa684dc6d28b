# Completions in the shells they are for, and manual pages in the program that shows them.
cd "$HERE"
export PATH=$PROGRAMS:$PATH LC_ALL=C.UTF-8
for program in etcdctl etcdutl; do
    for shell in bash zsh fish; do
        $program completion $shell >$program.$shell
    done
done

# What bash offers at the end of a line: its function is called as readline calls it.
cat >offers.bash <<'END'
source etcdctl.bash
source etcdutl.bash
COMP_LINE=$1
IFS=' ' read -ra COMP_WORDS <<<"$1"
if [[ $1 == *' ' ]]; then COMP_WORDS+=(''); fi
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
"_${COMP_WORDS[0]}" "${COMP_WORDS[0]}" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
complete -p "${COMP_WORDS[0]}" >/dev/null
printf '%s\n' "${COMPREPLY[@]}"
END
# What fish offers.
cat >offers.fish <<'END'
source etcdctl.fish
source etcdutl.fish
complete -C"$argv[1]" | cut -f1
END
# What zsh offers: the line is typed into one at a terminal, whose tabulator prints what completion adds.
cat >inside.zsh <<'END'
autoload -U compinit
compinit -D -u
source ./etcdctl.zsh
source ./etcdutl.zsh
compadd() {
    if (( ! ${argv[(I)-[OAD]]} )); then
        local -a added
        builtin compadd -A added "$@"
        offered+=($added)
    fi
    builtin compadd "$@"
}
offer() { offered=(); zle complete-word; print -rl -- '' BEGIN $offered END }
zle -C complete-word complete-word _main_complete
zle -N offer
bindkey '^I' offer
print READY
END
cat >offers.zsh <<'END'
zmodload zsh/zpty
zpty terminal zsh -f -i
zpty -w terminal "PS1=; source ./inside.zsh"
until [[ $line == READY* ]]; do zpty -r terminal line; done
zpty -n -w terminal "$1"$'\t'
until [[ $line == BEGIN* ]]; do zpty -r terminal line; done
while zpty -r terminal line && [[ $line != END* ]]; do print -r -- ${line%%[[:space:]]##}; done
zpty -d terminal
END

# offers LINE WORD...: the three shells offer all these words there.
offers() {
    local line=$1 shell word
    shift
    for shell in "bash" "fish" "zsh -f -o extendedglob"; do
        timeout 20 $shell "offers.${shell%% *}" "$line" >offered
        for word; do
            grep -Fx -- "$word" offered
        done
    done
}
offers 'etcdctl sn' snapshot
offers 'etcdctl snapshot ' save restore status
offers 'etcdctl snapshot s' save status
offers 'etcdctl get --' --prefix --keys-only --order --endpoints --write-out
offers 'etcdctl get key --pre' --prefix
offers 'etcdctl get key -w js' json
offers 'etcdctl get key --order ' ASCEND DESCEND
offers 'etcdctl --hex sn' snapshot
offers 'etcdctl --hex get --prefix key --re' --rev
offers 'etcdctl --endpoints 127.0.0.1:2379 end' endpoint
offers 'etcdctl completion ' bash zsh fish powershell
offers 'etcdutl sn' snapshot
offers 'etcdutl snapshot restore --skip-hash-check --data' --data-dir

for program in etcdctl etcdutl; do
    $program man pages
done
for page in pages/*; do
    groff -man -Tutf8 -ww -b -z "$page" 2>>warnings
done
if [ -s warnings ]; then
    cat warnings
    exit 1
fi
groff -man -Tascii -P-cbou pages/etcdctl-get.1 | grep -e "--print-value-only"
