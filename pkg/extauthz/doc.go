// Package extauthz is the gateway's rim towards an Envoy that somebody else configures: the external authorization service
// (envoy.service.auth.v3.Authorization). It carries each request to the walk and says yes or no.
//
// Envoy takes an empty CheckResponse as a yes. So every path of Check sets a status, and whatever is not clearly a yes is a refusal: a
// request whose body did not come whole, or not as bytes, a panic, a message without a request.
package extauthz
