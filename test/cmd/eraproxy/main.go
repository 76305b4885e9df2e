// Command eraproxy serves two MCP servers as one that speaks both eras; see package eraproxy.
//
//	eraproxy -listen 127.0.0.1:0 -stateless http://127.0.0.1:3001 -stateful http://127.0.0.1:3002
//
// It prints the URL it serves on its first line.
package main

import (
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"

	"github.com/mcpgw/mcpgw/test/eraproxy"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "`address` to listen on")
	stateless := flag.String("stateless", "", "`URL` of the server for 2026-07-28 and later")
	stateful := flag.String("stateful", "", "`URL` of the server for earlier revisions")
	flag.Parse()
	if err := serve(*listen, *stateless, *stateful); err != nil {
		fmt.Fprintln(os.Stderr, "eraproxy:", err)
		os.Exit(1)
	}
}

func serve(listen, stateless, stateful string) error {
	newer, err := url.ParseRequestURI(stateless)
	if err != nil {
		return fmt.Errorf("-stateless: %w", err)
	}
	older, err := url.ParseRequestURI(stateful)
	if err != nil {
		return fmt.Errorf("-stateful: %w", err)
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	fmt.Printf("http://%s/\n", l.Addr())
	return http.Serve(l, eraproxy.New(newer, older)) // no deadlines: its streams have none
}
