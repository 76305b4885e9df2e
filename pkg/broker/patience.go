package broker

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"
)

const forever time.Duration = 1<<63 - 1

// defaultIdle is how long a call may go without a byte where nothing is configured.
const defaultIdle = 5 * time.Minute

var errSilent = errors.New("no byte from the server in time")

// patience ends a call whose server is silent for too long. On the direct lane Envoy has it; towards the broker Envoy sees the
// keep-alive comments that the broker itself sends.
type patience struct {
	idle   time.Duration
	timer  *time.Timer
	cancel context.CancelCauseFunc
}

// patient returns a context that ends with errSilent; stop must be called.
func (c *call) patient(ctx context.Context) (context.Context, *patience) {
	p := &patience{idle: defaultIdle}
	if s := c.p.Snapshot.Settings.Servers[c.p.Server]; s != nil && s.CallIdle > 0 {
		p.idle = s.CallIdle
	}
	ctx, p.cancel = context.WithCancelCause(ctx)
	p.timer = time.AfterFunc(forever, func() {
		if c.st != nil && c.st.waits(c.p.Server, c.key()) { // for the client's answer: the silence is not the server's
			p.timer.Reset(p.idle)
			return
		}
		p.cancel(errSilent)
	})
	p.timer.Reset(p.idle) // only now, since the function reads p.timer
	return ctx, p
}

// hear starts the time anew with the answer's head and with each byte of its body.
func (p *patience) hear(r *http.Response) {
	p.timer.Reset(p.idle)
	r.Body = &heard{r.Body, p}
}

func (p *patience) stop() {
	p.timer.Stop()
	p.cancel(nil)
}

type heard struct {
	io.ReadCloser
	p *patience
}

func (h *heard) Read(b []byte) (int, error) {
	n, err := h.ReadCloser.Read(b)
	if n > 0 {
		h.p.timer.Reset(h.p.idle)
	}
	return n, err
}

// ended says why a server's answer broke off, in a word from the closed set: because we gave up, or because it was cut.
func ended(ctx context.Context) string {
	if ctx.Err() != nil {
		return "timeout"
	}
	return "unavailable"
}
