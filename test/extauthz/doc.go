// Package extauthz runs the example examples/ext-authz: an Envoy with a configuration of its own, whose ext_authz filter asks mcpgw.
package extauthz
