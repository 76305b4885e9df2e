// Package opa is the policy engine: Rego, evaluated in this process by Open Policy Agent.
//
// [Load] compiles a policy strictly, or returns every fault it finds. The [Engine] it returns is one immutable world of rules and
// data; a reload builds another one. It answers the questions of package policy:
//
//   - A call (Decide) is one evaluation of the entry point. Whatever goes wrong there (an undefined ruling, a conflict, an error of
//     a built-in, time, a panic) is a refusal with an internal fault, never a yes.
//   - A list (Visible) is the same question with the arguments unknown. Rules that do not read them are evaluated as they are; of
//     the others partial evaluation tells whether they certainly refuse, or can possibly allow.
//   - Answers are remembered by exactly what the rules can read. The walk in walk.go collects those paths from the compiled rules,
//     and the key is a digest of the values found there; see fields.go.
//
// [RunTests] runs Rego tests, as strictly; a test that is not true is evaluated once more to see at which condition (near.go).
// [Coverage] notes which rules hold, in tests and in an engine.
//
// What OPA does not do is done here: only the arguments that a rule reads are built into terms, numbers keep all their digits,
// names of rules that are close to a known one are faults, and so are references to rules that do not exist.
package opa
