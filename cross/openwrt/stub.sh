# The environment of an init script on a router, for tests: rc.common's verbs, UCI and procd. Calls of procd and of commands that
# need root are not executed but recorded, one per line, in the file $CALLS.
#
#   CALLS=file CONFIG=file [RUNNING=1] ash stub.sh INIT VERB
# shellcheck shell=ash disable=SC1090,SC2329

record() {
	local word line=
	for word in "$@"; do
		line="$line${line:+ }<$word>"
	done
	echo "$line" >> "$CALLS"
}

# With these functions, UCI's files are shell scripts. A section without a name gets a number.
sections=''
config() {
	count=$((${count:-0} + 1))
	section=${2:-cfg$count}
	sections="$sections $section"
	option TYPE "$1"
}

option() {
	eval "CONFIG_${section}_$1=\$2"
}

list() {
	local length
	config_get length "$section" "$1_LENGTH" 0
	length=$((length + 1))
	option "$1_ITEM$length" "$2"
	option "$1_LENGTH" "$length"
	config_get length "$section" "$1"
	option "$1" "$length${length:+ }$2"
}

config_load() {
	. "$CONFIG"
}

config_get() {
	case $2$3 in
	*[!A-Za-z0-9_]*) ;;
	*) eval "$1=\${CONFIG_$2_$3:-\$4}" ;;
	esac
}

config_get_bool() {
	config_get "$@"
	eval "case \$$1 in 1 | on | true | yes) $1=1 ;; 0 | off | false | no) $1=0 ;; *) $1=\$4 ;; esac"
}

config_foreach() {
	local each_section each_type each_call="$1" wanted="$2"
	shift 2
	for each_section in $sections; do
		config_get each_type "$each_section" TYPE
		[ "$each_type" != "$wanted" ] || "$each_call" "$each_section" "$@"
	done
}

config_list_foreach() {
	local list_section="$1" list_option="$2" list_call="$3" list_length list_value at=1
	shift 3
	config_get list_length "$list_section" "${list_option}_LENGTH" 0
	while [ "$at" -le "$list_length" ]; do
		config_get list_value "$list_section" "${list_option}_ITEM$at"
		"$list_call" "$list_value" "$@"
		at=$((at + 1))
	done
}

# Whether a value is of one of the types that the init script uses: VALUE TYPE
is_of_type() {
	local bounds
	case $2 in
	bool) case $1 in 0 | 1 | on | off | true | false | yes | no) ;; *) return 1 ;; esac ;;
	uinteger) case $1 in '' | *[!0-9]*) return 1 ;; esac ;;
	range*)
		is_of_type "$1" uinteger || return 1
		bounds=${2#range(}
		bounds=${bounds%)}
		[ "$1" -ge "${bounds%,*}" ] && [ "$1" -le "${bounds#*,}" ]
		;;
	or*) case $2 in *[\(,]\"$1\"[,\)]*) ;; *) return 1 ;; esac ;;
	file) [ -f "$1" ] ;;
	esac
}

uci_load_validate() {
	local validated="$3" call="$4" spec name type value result=0
	if [ -n "$triggers" ]; then
		record validate "$@"
		return
	fi
	shift 4
	for spec in "$@"; do
		name=${spec%%:*}
		type=${spec#*:}
		value=
		case $type in *:*) value=${type##*:} ;; esac
		local "$name"
		config_get value "$validated" "$name" "$value"
		[ -z "$value" ] || is_of_type "$value" "${type%%:*}" || result=1
		eval "$name=\$value"
	done
	"$call" "$validated" "$result"
}

for name in open_instance close_instance set_param append_param add_reload_trigger add_raw_trigger send_signal; do
	eval "procd_$name() { record $name \"\$@\"; }"
done
procd_running() { [ -n "$RUNNING" ]; }
procd_add_validation() { "$1"; }
logger() { record logger "$@"; }
chgrp() { record chgrp "$@"; }
chown() { record chown "$@"; }

verbs=
extra_command() { verbs="$verbs $1"; }

. "$1"

triggers=
case $2 in
start | reload)
	start_service
	record service set
	;;
stop) stop_service ;;
triggers)
	triggers=1
	service_triggers
	;;
*)
	case " $verbs " in
	*" $2 "*) "$2" ;;
	*) exit 64 ;;
	esac
	;;
esac
