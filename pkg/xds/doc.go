// Package xds turns mcpgw's world into Envoy's configuration and keeps Envoy's in step with it.
//
// A World is plain data. Render makes the resources that travel over xDS, Bootstrap the file Envoy starts
// with, and Static one file that needs no xDS at all; all three come from the same builders, so what is
// tested in one form holds in the others.
//
// The rendering is closed by construction. Until ext_proc has routed it, a POST stands on a cluster without
// endpoints and everything else on a refusal; routes are found by a header that only ext_proc can set. What
// holds for every server stands on the virtual host, so that no route can forget it. Each piece sits where
// it can change without a drain: clusters in CDS, both route tables in RDS, ext_proc's settings in ECDS,
// certificates and credentials in SDS; a listener changes only with its own address, its TLS or telemetry.
//
// Publisher speaks incremental xDS (the "delta" variant of xds.envoyproxy.io) on one aggregated stream, and
// its Publish moves every connected Envoy from one world to the next without a moment in which a route
// points at a cluster that is not ready.
package xds
