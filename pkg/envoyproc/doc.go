// Package envoyproc runs Envoy as a supervised child: it finds the binary and checks its version, starts it
// in a process group of its own, passes its log on under a bound, restarts it with backoff when it dies, and
// lets it go only after its requests have ended. On Linux the child dies with this process, however that
// ends.
//
// Admin speaks to any Envoy over its admin socket, a child or not.
package envoyproc
