// Package config reads the gateway's configuration: YAML in the shape of
// proto/mcpgw/config/v1, strictly, with every fault at once and the place and
// the remedy of each.
//
// [Load] goes through five steps, and each adds its faults to the same list:
// the YAML is read as a tree of nodes, the tree is decoded into the proto, the
// defaults are written out, the proto's own rules are checked (protovalidate),
// and then what no single field can say: names that refer to each other, paths
// that collide, files that must be there, keys that may not be on a public
// address. A part that could not be decoded is not complained of twice.
//
// The values of secrets stay out of the configuration; it says where they lie,
// and [ReadSecret] and [ReadValue] fetch them as an identity.Secret, which
// prints redacted.
package config
