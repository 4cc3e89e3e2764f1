#!/usr/bin/env bash
# Asks the API server of the current kubeconfig whether it would take an overlay; changes nothing.
#
#   deploy/kubernetes/dry-run.sh OVERLAY [--apply]
#
# --apply: applies it. For API servers before 1.21, which have PodDisruptionBudgets and CronJobs as v1beta1 only: with
# these, `kubectl apply -k` works from 1.21 on, and this script before that, too.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,/^set/{/^# \?/s///p}' "$0" >&2; exit 2; }
overlay=$(dirname "$0")/overlays/$1
mode=--dry-run=server
[ "${2:-}" != --apply ] || mode=

old=()
versions=$(kubectl api-versions)
grep -qx policy/v1 <<<"$versions" || old+=(-e 's|^apiVersion: policy/v1$|apiVersion: policy/v1beta1|')
grep -qx batch/v1 <<<"$versions" && kubectl api-resources --api-group=batch --no-headers | grep -q '^cronjobs .* batch/v1 ' ||
  old+=(-e '/^apiVersion: batch\/v1$/{N;s|batch/v1\nkind: CronJob|batch/v1beta1\nkind: CronJob|}')
kubectl kustomize "$overlay" | sed "${old[@]:--e;}" | kubectl apply ${mode:+"$mode"} -f -
