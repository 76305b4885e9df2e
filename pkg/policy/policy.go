// Package policy holds the words in which the gateway asks whether something may be done, and is answered: the question, the
// ruling, and the engine that turns one into the other. It holds no engine: that is a leaf room (package opa), so that nothing
// between here and there knows Rego.
//
// One question form serves calls and lists. A call is asked with Decide; a list asks Visible about each of its items, with the
// same question (the action is that of the call) and the arguments unknown. The promise that ties the two together: an item is
// hidden only if every call of it by this principal is refused.
package policy

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/identity"
)

// Effect is what a ruling says. Only Allow lets anything pass: code compares with Allow, never with Deny.
type Effect string

// The effects.
const (
	Allow Effect = "allow"
	Deny  Effect = "deny"
	Ask   Effect = "ask" // a human has to confirm first
)

// Question is one call, as policy sees it. Engines only read it, and keep nothing of it after they return.
type Question struct {
	Subject   *identity.Principal
	Action    string        // the MCP method of the call: tools/call, resources/read, prompts/get; never that of a list
	Item      *catalog.Item // the origin's item, whatever name the client used
	URI       string        // the concrete URI of a resource read; empty otherwise
	Arguments []byte        // the arguments as sent, the text of one JSON object; nil when there are none
	Context   Context
}

// Context is what is known of the circumstances of a call.
type Context struct {
	Endpoint      string    // the configured name of the endpoint that the client connected to
	Era           string    // modern or legacy
	Revision      string    // of the protocol, as the client named it
	ClientAddress string    // IP address, without a port
	RequestID     string    // the gateway's, not the client's
	Labels        []string  // what the session has been labelled with, in order
	LabelsLost    bool      // there may have been other labels, which are not known any more
	Round         int       // 0 for a first request, then how often the client came back with what it was asked for
	Time          time.Time // when the request arrived; rules see it as RFC 3339 text in UTC
}

// Reason is one sentence of a ruling. Its message is public: a policy's author writes it for the caller.
type Reason struct {
	Rule    string `json:"rule"` // the kind of rule that said it: deny, ask
	Message string `json:"message"`
}

// Ruling is the answer to a question. The slices of a ruling may be shared with other rulings: do not change them.
type Ruling struct {
	Effect   Effect
	Reasons  []Reason // of a refusal or of what is asked; in the order of their text
	Revision string   // of policy and data together
	Cached   bool     // answered from an earlier, equal question
	Duration time.Duration

	// Obligations is what has to be done together with the call; nil for nothing. A deny has none. It may be shared with other
	// rulings: do not change it.
	Obligations *Obligations

	// Err is an internal fault: the policy could not be evaluated, or said nothing that makes sense. The effect is then Deny, and
	// the text of Err is for the log and the span alone.
	Err error
}

// Obligations are conditions of an allow or an ask: whoever cannot meet one refuses.
type Obligations struct {
	Rewrite []Change // of the arguments, before the server sees them
	Redact  []Change // of the result, before the client sees it
	Label   []string // what the caller's session is marked with from now on; in order, without repeats
}

// Change is one change of a JSON document. Exactly one of Path and Pattern is set.
type Change struct {
	Path    string // a JSON pointer (RFC 6901), from the arguments or from the result; never the whole document
	Pattern string // an RE2 expression; every match in every text of the document is replaced, member names excepted (package edit)

	// Value replaces what stands at Path, as JSON text; nil removes it. With replaces the matches of Pattern, where $1 names a group.
	Value []byte
	With  string
}

// Public is the reason text that a caller may read.
func (r Ruling) Public() string {
	switch {
	case r.Err != nil:
		return "the policy could not be evaluated"
	case len(r.Reasons) == 0:
		return "no rule allows this call"
	case len(r.Reasons) == 1:
		return r.Reasons[0].Message
	}
	messages := make([]string, len(r.Reasons))
	for i, reason := range r.Reasons {
		messages[i] = reason.Message
	}
	return strings.Join(messages, "; ")
}

// ErrTimeout says that an evaluation had no time to end: another time it may. Every other error of an engine is the policy's own.
var ErrTimeout = errors.New("the policy had no time to rule")

// Engine answers questions. Every method is safe for concurrent use, and an engine never changes its mind: new policy is a new
// engine. The context bounds how long an answer may take; whatever goes wrong is a refusal, never a yes.
type Engine interface {
	// Decide rules on one call.
	Decide(ctx context.Context, q *Question) Ruling

	// Visible says whether the item of the question is shown to its subject. Arguments are unknown and so is the URI of a
	// template: what the question holds of them is ignored. False means that every call of the item is refused. With an error nothing
	// is known: the item is not to be shown, and the answer not to be remembered.
	Visible(ctx context.Context, q *Question) (bool, error)

	// ListKey digests everything but the item that Visible reads: with an equal key and the same item, the answer is the same,
	// from this engine and from any other with the same revision. ok is false if answers must not be reused at all. The item of
	// the question may be nil.
	ListKey(q *Question) (key [32]byte, ok bool)

	// Reads names the top-level arguments that a rule may read when it judges this item, in order; all means that a rule may read
	// any of them. The caller holds these to the types that the item declares before it asks.
	Reads(i *catalog.Item) (names []string, all bool)

	// Labels names every label that the policy can give, as far as its text tells: what a caller whose labels are lost counts as
	// marked with. The slice is shared.
	Labels() []string

	// Revision identifies policy and data.
	Revision() string
}
