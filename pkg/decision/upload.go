package decision

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/mcpgw/mcpgw/pkg/identity"
)

// uploader sends entries to OPA's /logs interface: arrays of entries, compressed. OPA's own uploader counts chunks that it drops where
// the log has to count entries, bounds its memory in one of the two only, and may wait for a server without end when it is stopped.
type uploader struct {
	url    string
	token  func() (identity.Secret, error)
	client *http.Client
	lost   *losses
	wake   chan struct{} // holds one when there is something to send

	mu      sync.Mutex // guards both
	pending [][]byte
	bytes   int // of pending and of the batch on its way
}

const (
	maxPending = 64 << 20 // bytes of entries that wait for the server
	batchBytes = 1 << 20  // before compression; one larger entry is a batch of its own
	batchDelay = time.Second
	maxBackoff = 30 * time.Second
	maxSend    = 30 * time.Second
)

func newUploader(o *LogOptions, lost *losses) *uploader {
	return &uploader{
		url: strings.TrimSuffix(o.URL, "/") + "/logs", token: o.Token, lost: lost, wake: make(chan struct{}, 1),
		client: &http.Client{
			Timeout:       maxSend,
			Transport:     &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{RootCAs: o.Roots, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true, IdleConnTimeout: time.Minute},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // entries and token are for one address
		},
	}
}

func (u *uploader) put(line []byte) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.bytes+len(line) > maxPending {
		return errors.New("the server of policy.decision_log.url takes too little")
	}
	u.bytes += len(line)
	u.pending = append(u.pending, bytes.TrimSuffix(line, []byte{'\n'}))
	select {
	case u.wake <- struct{}{}:
	default:
	}
	return nil
}

// take cuts a batch from what is pending.
func (u *uploader) take() (batch [][]byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	n, size := 0, 0
	for n < len(u.pending) && (n == 0 || size+len(u.pending[n]) <= batchBytes) {
		size += len(u.pending[n])
		n++
	}
	batch = u.pending[:n:n]
	if u.pending = u.pending[n:]; len(u.pending) == 0 {
		u.pending = nil // let go of the array
	}
	return batch
}

func (u *uploader) waiting() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.bytes
}

// run sends until stop is closed and nothing is left, or ctx ends.
func (u *uploader) run(ctx context.Context, stop <-chan struct{}) {
	defer u.client.CloseIdleConnections()
	for {
		if u.waiting() < batchBytes { // give a batch the time to fill
			select {
			case <-time.After(batchDelay):
			case <-stop:
			case <-ctx.Done():
			}
		}
		batch := u.take()
		if len(batch) > 0 {
			u.deliver(ctx, stop, batch)
			continue
		}
		select {
		case <-u.wake:
		case <-stop:
			if len(u.wake) == 0 {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// deliver sends one batch until the server has it, or has refused it for good, or ctx ends.
func (u *uploader) deliver(ctx context.Context, stop <-chan struct{}, batch [][]byte) {
	size := 0
	for _, line := range batch {
		size += len(line) + 1
	}
	defer func() {
		u.mu.Lock()
		u.bytes -= size
		u.mu.Unlock()
	}()
	body := pack(batch)
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, maxBackoff) {
		again, err := u.send(ctx, body)
		if err == nil {
			return
		}
		if !again || ctx.Err() != nil {
			u.lost.lose(len(batch), err.Error())
			return
		}
		u.lost.log.Debug("decision log entries wait", "entries", len(batch), "error", err)
		select {
		case <-time.After(wait/2 + rand.N(wait/2)):
		case <-ctx.Done():
		case <-stop: // the end comes soon: try more often
			stop, wait = nil, 50*time.Millisecond
		}
	}
}

func pack(batch [][]byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b) // into memory: it cannot fail
	for i, line := range batch {
		_, _ = w.Write([]byte{"[,"[min(i, 1)]})
		_, _ = w.Write(line)
	}
	_, _ = w.Write([]byte("]"))
	_ = w.Close()
	return b.Bytes()
}

// send posts a body. again says that another attempt may help.
func (u *uploader) send(ctx context.Context, body []byte) (again bool, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, u.url, bytes.NewReader(body))
	if err != nil {
		return false, errors.New("policy.decision_log.url is no address")
	}
	r.Header.Set("content-type", "application/json")
	r.Header.Set("content-encoding", "gzip")
	if u.token != nil {
		secret, err := u.token()
		if err != nil {
			return true, fmt.Errorf("policy.decision_log.token: %w", err)
		}
		r.Header.Set("authorization", "Bearer "+secret.Reveal())
	}
	resp, err := u.client.Do(r)
	if err != nil {
		return true, err
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection serves again
	_ = resp.Body.Close()
	switch {
	case resp.StatusCode/100 == 2:
		return false, nil
	case resp.StatusCode == http.StatusBadRequest, resp.StatusCode == http.StatusRequestEntityTooLarge, resp.StatusCode == http.StatusUnprocessableEntity:
		return false, fmt.Errorf("%s refuses the entries themselves: %s", u.url, resp.Status)
	}
	return true, fmt.Errorf("%s answers %s", u.url, resp.Status)
}
