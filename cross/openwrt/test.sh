#!/bin/sh

case "$1" in
smolgate | smolgate-mini)
	smolgate -v 2>&1 | grep "$2"
	;;
esac
