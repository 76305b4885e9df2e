// Package extproc is the gateway's rim towards Envoy: the external processor service (envoy.service.ext_proc.v3) that carries each
// exchange to the walk and the walk's verdict back.
//
// Envoy takes a cleanly closed stream as "go on without me". So Process returns nil only after the last reply of an exchange, and an
// error whenever anything ends earlier; a panic in the walk becomes a refusal. The reply to a POST's headers never changes anything:
// a route named there would send the body on unread.
package extproc
