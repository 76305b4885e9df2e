package bundle

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/plugins/rest"
)

// longPollType is the content type by which a server says that it holds requests until there is something new.
const longPollType = "application/vnd.openpolicyagent.bundles"

// door is the one way out to a network, under OPA's clients. It adds the token where it belongs, bounds what is read, and looks into
// every archive before OPA unpacks it.
type door struct {
	base   http.RoundTripper
	server *url.URL // which gets the token
	token  func() (string, error)
	limit  int64 // of an archive, unpacked
	image  bool  // a registry, which sends other things than archives as well

	left     atomic.Int64 // bytes that may still be read in this look
	longPoll atomic.Bool  // what the server last said of itself
}

var _ rest.HTTPAuthPlugin = (*door)(nil)

func newDoor(server *url.URL, o *Options) (*door, error) {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DisableCompression = true // what is sent as gzip is the archive itself
	t.DialContext = (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	t.MaxResponseHeaderBytes = 64 << 10
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if o.CAFile != "" {
		pem, err := readBounded(o.CAFile, maxKey*16)
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		t.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca_file %s holds no certificate", o.CAFile)
		}
	}
	return &door{base: t, server: server, token: o.Token, limit: o.MaxBytes, image: o.OCI != ""}, nil
}

func (d *door) close() { d.base.(*http.Transport).CloseIdleConnections() }

// NewClient is asked by OPA's clients instead of making one.
func (d *door) NewClient(rest.Config) (*http.Client, error) { return &http.Client{Transport: d}, nil }

// Prepare does nothing: the token is added below, where redirects pass as well.
func (d *door) Prepare(*http.Request) error { return nil }

// RoundTrip sends one request. An answer with a body is read whole, within bounds, before it is handed on.
func (d *door) RoundTrip(r *http.Request) (*http.Response, error) {
	if d.server.Scheme == "https" && r.URL.Scheme != "https" {
		return nil, errors.New("the server sends us on to an address without TLS")
	}
	r = r.Clone(r.Context())
	r.Header.Set("User-Agent", "mcpgw")
	if err := d.authorize(r); err != nil {
		return nil, err
	}
	resp, err := d.base.RoundTrip(r)
	if err != nil || r.Method != http.MethodGet || resp.StatusCode != http.StatusOK {
		return resp, err
	}
	body, err := d.read(r.Context(), resp)
	if err != nil {
		return nil, err
	}
	if !d.image {
		d.longPoll.Store(resp.Header.Get("Content-Type") == longPollType)
	}
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return resp, nil
}

// authorize sends our token to the configured server and to nobody else. A header that is there is one that a registry gave us for itself.
func (d *door) authorize(r *http.Request) error {
	if d.token == nil || r.URL.Scheme != d.server.Scheme || r.URL.Host != d.server.Host || r.Header.Get("Authorization") != "" {
		return nil
	}
	token, err := d.token()
	if err != nil {
		return fmt.Errorf("token: %w", err)
	}
	r.Header.Set("Authorization", "Bearer "+token) // on a clone: what follows a redirect does not inherit it
	return nil
}

func (d *door) read(ctx context.Context, resp *http.Response) ([]byte, error) {
	defer func() { _ = resp.Body.Close() }() // only read from
	left := d.left.Load()
	if resp.ContentLength > left {
		return nil, refusef("the answer has %d bytes, more than max_bytes allows", resp.ContentLength)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, left+1))
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		return nil, err
	case int64(len(body)) > left:
		return nil, refusef("the answer has more bytes than max_bytes allows")
	}
	d.left.Add(-int64(len(body)))
	if d.image && !bytes.HasPrefix(body, []byte{0x1f, 0x8b}) {
		return body, nil // a manifest or the like, which OPA's client holds against its digest
	}
	_, err = unpack(body, d.limit, false)
	return body, err
}
