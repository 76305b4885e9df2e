package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mcpgw/mcpgw/pkg/admin"
	"github.com/mcpgw/mcpgw/pkg/config"
)

// adminFlags say which running gateway is asked, and by whom.
type adminFlags struct{ file, address, key string }

func (f *adminFlags) flags(c *cobra.Command) {
	c.Flags().StringVarP(&f.file, "config", "c", "mcpgw.yaml", "configuration file of the gateway")
	c.Flags().StringVar(&f.address, "admin", "", "admin address of the gateway, instead of the one that the file names")
}

// keyFlag is for what only operators may ask.
func (f *adminFlags) keyFlag(c *cobra.Command) {
	c.Flags().StringVar(&f.key, "key", "", "operator's key (default: $MCPGW_ADMIN_KEY)")
}

// maxReport bounds what is read of a gateway's answer.
const maxReport = 256 << 20

// ask sends one request to the gateway's admin address, body as JSON if it is not nil, and decodes its answer into out.
func (f *adminFlags) ask(ctx context.Context, method, path string, body, out any) error {
	at, err := config.AdminAddress(f.file)
	if f.address != "" {
		at, err = config.ParseAddress(f.address)
	}
	if err != nil {
		return fmt.Errorf("admin.address: %w", err)
	}
	var b []byte
	if body != nil {
		if b, err = json.Marshal(body); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://mcpgw"+path, bytes.NewReader(b))
	if err != nil {
		return err
	}
	if body != nil {
		req.Header.Set("content-type", "application/json")
	}
	key := f.key
	if key == "" {
		key = os.Getenv("MCPGW_ADMIN_KEY")
	}
	if key != "" {
		req.Header.Set("authorization", "Bearer "+key)
	}
	client := http.Client{Timeout: time.Minute, Transport: admin.Transport(at.Network, at.Address)}
	resp, err := client.Do(req)
	if err != nil {
		if u := (*url.Error)(nil); errors.As(err, &u) {
			err = u.Err // the URL is of no use to anybody: its host is made up
		}
		return fmt.Errorf("no gateway answers at %s: %w; start it with mcpgw run, or name its configuration with --config", at, err)
	}
	defer func() { _ = resp.Body.Close() }() // only read from
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxReport))
	switch {
	case err != nil:
		return err
	case resp.StatusCode >= http.StatusBadRequest && strings.HasPrefix(resp.Header.Get("content-type"), "text/plain"):
		return errors.New(strings.TrimSpace(string(answer)))
	case resp.StatusCode != http.StatusOK || json.Unmarshal(answer, out) != nil:
		return errors.New("what answers at " + at.String() + " is not mcpgw, or of another version")
	}
	return nil
}
