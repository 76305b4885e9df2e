package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mcpgw/mcpgw/pkg/fault"
	"github.com/mcpgw/mcpgw/pkg/gateway"
	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
	"github.com/mcpgw/mcpgw/pkg/mcp"
)

// confirm asks a legacy client's user before the call goes on (2025-11-25, "Elicitation"), on the call's own stream, and reports whether
// it may. It may not when the answer is no, does not come in time, or its asker leaves: what nobody can see confirmed does not happen.
func (c *call) confirm() bool {
	a, id := c.p.Asks(), c.p.Message.ID
	ctx, cancel := context.WithDeadline(c.r.Context(), a.Expires)
	defer cancel()
	end, ok := c.st.begin(id, running{cancel: cancel})
	if !ok {
		c.p.Answered(ctx, gateway.Failed)
		c.fail(fault.New(fault.Invalid, "a request with this id is under way"))
		return false
	}
	defer end()
	reply := make(chan gateway.Answer, 1)
	question, ok := c.st.ask(pending{call: c.key(), reply: reply})
	if !ok {
		c.p.Answered(ctx, gateway.Failed)
		c.fail(fault.New(fault.Limited, "the client has too many requests to answer already"))
		return false
	}
	c.p.Unpin() // a human takes minutes
	c.asked = c.stream()
	c.asked.message(fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%s,"method":%q,"params":%s}`, question, mcp.MethodElicit, a.Params))
	said, cancelled := c.await(ctx, reply)
	if said == gateway.NoAnswer { // whoever shows the question may stop
		c.asked.message(fmt.Appendf(nil, `{"jsonrpc":"2.0","method":%q,"params":{"requestId":%s,"reason":"no answer is waited for any more"}}`, mcp.NotifyCancelled, question))
	}
	refusal := c.p.Answered(context.WithoutCancel(c.r.Context()), said)
	c.b.Log.InfoContext(ctx, "confirmation", "decision_id", c.p.DecisionID, "principal", c.p.Principal.ID, "server", c.p.Server, "item", c.p.Item,
		"approval", c.p.Approval, "approved_by", c.p.ApprovedBy, "effect", c.p.Ruling.Effect, "policy_revision", c.p.Ruling.Revision, "refused", refusal != nil)
	if refusal == nil {
		return true
	}
	if !cancelled { // nobody waits for an answer to what was cancelled
		c.asked.message(refusal)
	}
	c.asked.close()
	return false
}

// await waits for the user's word; cancelled says that the client has taken the call back.
func (c *call) await(ctx context.Context, reply <-chan gateway.Answer) (said gateway.Answer, cancelled bool) {
	alive := time.NewTicker(c.b.Keepalive)
	defer alive.Stop()
	for {
		changed := c.st.wait()
		if s, err := c.b.Sessions.Get(ctx, c.p.Session.ID, c.p.Session.Owner); err != nil || s == nil { // ended; a look counts as use
			return gateway.NoAnswer, ctx.Err() != nil
		}
		select {
		case said := <-reply:
			return said, false
		case <-ctx.Done():
			return gateway.NoAnswer, errors.Is(ctx.Err(), context.Canceled)
		case <-c.asked.over:
			return gateway.NoAnswer, true
		case <-c.b.closing:
			return gateway.NoAnswer, false
		case <-changed:
		case <-alive.C:
		}
	}
}

// answerOf is the user's word in a client's response to elicitation/create.
func answerOf(m *jsonrpc.Message) gateway.Answer {
	if !m.Result.Exists() {
		return gateway.Failed
	}
	return gateway.ReadAnswer(m.Result.Raw)
}
