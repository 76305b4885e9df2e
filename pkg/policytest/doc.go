// Package policytest runs the tests of a policy: Rego tests, and tables in YAML for people who do not write Rego. Both ask whole
// questions, built in one place from a short description and a catalog, so that a test is about what the gateway would ask; tables go
// through the gateway's own engine.
//
// Its files: description.go (description and catalog → question), table.go (YAML → tests), run.go (running all of it), report.go (the
// result as text and as JUnit XML).
package policytest
