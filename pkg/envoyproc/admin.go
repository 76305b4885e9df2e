package envoyproc

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// maxAnswer bounds what is read of one answer; a dump of 1,000 servers has a few MiB.
const maxAnswer = 64 << 20

// Admin is a client of Envoy's admin interface on a unix socket. It may be used by several goroutines.
type Admin struct{ http http.Client }

// NewAdmin makes a client for the socket at path; it connects when it is used.
func NewAdmin(path string) *Admin {
	return &Admin{http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
		MaxIdleConns:    2,
		IdleConnTimeout: 10 * time.Second,
	}}}
}

// Close drops idle connections.
func (a *Admin) Close() { a.http.CloseIdleConnections() }

// Do sends a request, such as GET /config_dump, and returns the body. A status of 400 or more is an error,
// together with the body.
func (a *Admin) Do(ctx context.Context, method, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://envoy"+path, nil)
	if err != nil {
		return nil, err
	}
	r, err := a.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("envoy admin: %w", err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(io.LimitReader(r.Body, maxAnswer))
	if err == nil && r.StatusCode >= 400 {
		err = fmt.Errorf("envoy admin: %s %s: %s", method, path, r.Status)
	}
	return b, err
}

// State is Envoy's own word: LIVE, PRE_INITIALIZING, INITIALIZING or DRAINING.
func (a *Admin) State(ctx context.Context) (string, error) {
	b, err := a.Do(ctx, http.MethodGet, "/ready")
	if s := strings.TrimSpace(string(b)); s != "" {
		return s, nil // every state but LIVE comes with a 503
	}
	return "", err
}

// Stats returns the counters and gauges whose names match a regular expression (RE2); histograms are left out.
func (a *Admin) Stats(ctx context.Context, filter string) (map[string]uint64, error) {
	b, err := a.Do(ctx, http.MethodGet, "/stats?type=All&histogram_buckets=none&filter="+url.QueryEscape(filter))
	if err != nil {
		return nil, err
	}
	stats := map[string]uint64{}
	for line := range strings.Lines(string(b)) {
		// Names may hold ": " only in values of tags, which Envoy does not print here.
		if i := strings.LastIndex(line, ": "); i > 0 {
			if v, err := strconv.ParseUint(strings.TrimSpace(line[i+2:]), 10, 64); err == nil {
				stats[line[:i]] = v
			}
		}
	}
	return stats, nil
}

// Listeners returns where Envoy really listens, by listener name: "ip:port", with the port that the kernel
// chose, or the path of a unix socket.
func (a *Admin) Listeners(ctx context.Context) (map[string]string, error) {
	b, err := a.Do(ctx, http.MethodGet, "/listeners?format=json")
	if err != nil {
		return nil, err
	}
	var v struct {
		Statuses []struct {
			Name  string `json:"name"`
			Local struct {
				Socket struct {
					Address string `json:"address"`
					Port    int    `json:"port_value"`
				} `json:"socket_address"`
				Pipe struct {
					Path string `json:"path"`
				} `json:"pipe"`
			} `json:"local_address"`
		} `json:"listener_statuses"`
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return nil, fmt.Errorf("envoy admin: /listeners: %w", err)
	}
	at := map[string]string{}
	for _, s := range v.Statuses {
		if s.Local.Pipe.Path != "" {
			at[s.Name] = s.Local.Pipe.Path
		} else {
			at[s.Name] = net.JoinHostPort(s.Local.Socket.Address, strconv.Itoa(s.Local.Socket.Port))
		}
	}
	return at, nil
}

// maxGrace is how long a draining Envoy still takes connections at most, so that whoever balances load before it sees its health
// check fail before a connection does.
const maxGrace = 5 * time.Second

// Drain lets requests end: health checks fail, every answer closes its connection, and after a quarter of the time that ctx gives
// (5 s at most) no new connection is taken; then it waits until no request of a client is active or ctx ends, which is an error. Event
// streams run on meanwhile.
func (a *Admin) Drain(ctx context.Context) error {
	for _, p := range []string{"/healthcheck/fail", "/drain_listeners?graceful"} {
		if _, err := a.Do(ctx, http.MethodPost, p); err != nil {
			return err
		}
	}
	grace := maxGrace
	if end, ok := ctx.Deadline(); ok {
		grace = min(grace, time.Until(end)/4)
	}
	closing := time.NewTimer(grace)
	defer closing.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	const active = "http.ingress.downstream_rq_active"
	for quiet, n := 0, uint64(0); quiet < 3; { // a request between two others is not missed for want of a second look
		stats, err := a.Stats(ctx, "^"+active+"$")
		if err != nil && ctx.Err() == nil {
			return err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%d requests had not ended: %w", n, ctx.Err())
		}
		n = stats[active]
		if quiet++; n > 0 {
			quiet = 0
		}
		select {
		case <-tick.C:
		case <-closing.C:
			if _, err := a.Do(ctx, http.MethodPost, "/drain_listeners"); err != nil && ctx.Err() == nil {
				return err
			}
		case <-ctx.Done():
		}
	}
	return nil
}
