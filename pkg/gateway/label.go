package gateway

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/mcpgw/mcpgw/pkg/fault"
	"github.com/mcpgw/mcpgw/pkg/policy"
	"github.com/mcpgw/mcpgw/pkg/session"
)

// Labels keeps what callers without a session are marked with, by principal and client ([identity.Principal.Key]). All methods may be
// called at once from many goroutines.
type Labels interface {
	// Get returns the labels of a caller, in order. lost says that there may be others, which are not known any more. It does not
	// wait for a disk or a network.
	Get(caller string) (labels []string, lost bool)
	// Add marks a caller and says whether anything is new. When it has returned without an error, the labels outlive whatever the
	// store outlives.
	Add(caller string, labels []string) (grew bool, err error)
}

// known is what the caller is marked with at this moment. Where the gateway holds a session, it alone is marked, and a new one is clean;
// everybody else by principal and client: modern clients, and all behind ext_authz, whose sessions are their server's. What cannot be
// found out counts as lost.
func (x *Exchange) known() (labels []string, lost bool) {
	switch {
	case x.Session != nil:
		s, err := x.g.opts.Sessions.Get(x.ctx, x.Session.ID, x.Session.Owner) // another call may have marked it just now
		if err != nil || s == nil {
			return nil, true
		}
		return s.Labels, false
	case x.g.opts.Labels != nil:
		return x.g.opts.Labels.Get(x.Principal.Key())
	}
	return nil, true
}

// marks is what policy sees of that: whoever's labels are lost counts as marked with every label that the policy can give.
func (x *Exchange) marks() (labels []string, lost bool) {
	labels, lost = x.known()
	if lost {
		labels = slices.Concat(labels, x.Snapshot.Policy.Labels())
		slices.Sort(labels)
		labels = slices.Compact(labels)
	}
	return labels, lost
}

// Marks is what the caller is marked with at this moment, in a form to compare. Labels expire without anybody's doing, so streams look.
func (x *Exchange) Marks() string {
	labels, lost := x.known()
	return strconv.FormatBool(lost) + strings.Join(labels, "\x00")
}

// mark gives the caller the labels of a ruling. It comes before anything is forwarded: when the server hears of the call, every later
// question already sees them. What cannot be kept is a refusal.
func (x *Exchange) mark(o *policy.Obligations) *fault.Error {
	if o == nil || len(o.Label) == 0 {
		return nil
	}
	grew, err := x.keep(o.Label)
	if err != nil {
		return fault.New(fault.Internal, "what this call marks its caller with cannot be kept").Wrap(err)
	}
	if grew {
		x.g.bells.ring(x.marked())
	}
	return nil
}

func (x *Exchange) keep(labels []string) (grew bool, err error) {
	switch {
	case x.Session != nil:
		var full error
		s, err := x.g.opts.Sessions.Update(x.ctx, x.Session.ID, x.Session.Owner, func(s *session.Session) (n *session.Session) {
			n, grew, full = s.Labelled(labels)
			return n
		})
		if err == nil && s == nil {
			err = errors.New("the session has ended")
		}
		return grew, errors.Join(err, full)
	case x.g.opts.Labels != nil:
		return x.g.opts.Labels.Add(x.Principal.Key(), labels)
	}
	return false, errors.New("there is no place for labels")
}

// marked names whom labels bind.
func (x *Exchange) marked() string {
	if x.Session != nil {
		return "session " + x.Session.ID
	}
	return "caller " + x.Principal.Key()
}

// Marked yields something whenever whom x speaks for was given a new label, until stop: what it sees may have changed. Several at once
// may be told as one.
func (x *Exchange) Marked() (rung <-chan struct{}, stop func()) { return x.g.bells.hang(x.marked()) }

// bells wakes the streams of one caller.
type bells struct {
	mu   sync.Mutex
	hung map[string][]chan struct{}
}

func (b *bells) hang(who string) (<-chan struct{}, func()) {
	c := make(chan struct{}, 1)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.hung == nil {
		b.hung = map[string][]chan struct{}{}
	}
	b.hung[who] = append(b.hung[who], c)
	return c, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		left := slices.DeleteFunc(b.hung[who], func(o chan struct{}) bool { return o == c })
		if b.hung[who] = left; len(left) == 0 {
			delete(b.hung, who)
		}
	}
}

func (b *bells) ring(who string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.hung[who] {
		select {
		case c <- struct{}{}:
		default: // it has not looked since the last one
		}
	}
}
