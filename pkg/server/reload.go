package server

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/mcpgw/mcpgw/pkg/config"
)

// quiet is how long files must lie still before they are read: editors and mounts write in several steps.
const quiet = 200 * time.Millisecond

// reloads builds and installs a new world whenever a file changes or SIGHUP comes, until ctx ends. A fault keeps the old world, and is
// shown by log, metric and catalog.
func (s *Server) reloads(ctx context.Context, w *fsnotify.Watcher) error {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	var settled, again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.envoyFailed():
			return s.envoy.Wait()
		case <-hup:
			settled = time.After(0)
		case e := <-w.Events:
			if s.concerns(e.Name) {
				settled = time.After(quiet)
			}
		case err := <-w.Errors:
			s.log.Warn("files are not watched", "error", err)
			if errors.Is(err, fsnotify.ErrEventOverflow) { // among what was not told may be what concerns us
				settled = time.After(quiet)
			}
		case <-settled:
			settled, again = nil, s.reload(ctx, w)
		case <-again: // a bundle could not be had
			again = s.reload(ctx, w)
		case o := <-s.offers:
			o.verdict <- s.activate(o)
		}
		if err := s.begin(ctx); err != nil {
			return err
		}
	}
}

// reload makes the configuration that the files hold the one in force, or says why not. again, where not nil, comes when another try is
// worth it though no file has changed.
func (s *Server) reload(ctx context.Context, w *fsnotify.Watcher) (again <-chan time.Time) {
	c, err := s.opts.Load()
	var b *built
	if err == nil {
		s.follow(w, c) // before its files are read: what changes after that is seen
		b, err = s.build(ctx, c)
	}
	if err == nil {
		if err = s.install(ctx, b); err != nil {
			s.abandon(b)
		}
	}
	s.unfollow(w)
	s.mu.Lock()
	s.fault = err
	s.mu.Unlock()
	s.telemetry.Metrics.Reload(err == nil, time.Now())
	if err != nil {
		s.log.Error("the configuration is not taken; the one before stays in force", "error", err)
	}
	var u *unfetched
	if errors.As(err, &u) {
		return time.After(u.again)
	}
	return nil
}

// filesOf is what a configuration's world is read from.
func filesOf(c *config.Config) []string {
	files := slices.Clone(c.Files)
	p := c.Proto.Policy
	for _, dir := range []string{p.Directory, p.Bundle.GetPath(), p.Shadow.GetDirectory(), p.Shadow.GetBundle().GetPath()} {
		files = append(files, directories(dir)...)
	}
	return files
}

// directories is dir, or what a link of that name leads to, and all below it; nothing if it is none.
func directories(dir string) (found []string) {
	if dir == "" {
		return nil
	}
	_ = filepath.WalkDir(dir+"/", func(path string, d os.DirEntry, err error) error { // the walk follows no link, not even as its start
		if err == nil && d.IsDir() {
			found = append(found, filepath.Clean(path))
		}
		return nil // what cannot be read shows when it is loaded
	})
	return found
}

// watched is the directories of all files: a file that is replaced by another keeps its name, not its identity. Mounted secrets change by
// a link in between, so links are followed.
func watched(c *config.Config) map[string]bool {
	want := map[string]bool{}
	for _, f := range filesOf(c) {
		want[filepath.Dir(f)] = true
		if st, err := os.Stat(f); err == nil && st.IsDir() {
			want[f] = true
		}
		if real, err := filepath.EvalSymlinks(f); err == nil {
			want[filepath.Dir(real)] = true
		}
	}
	return want
}

// follow watches what c is read from, besides what is watched already.
func (s *Server) follow(w *fsnotify.Watcher, c *config.Config) {
	for d := range watched(c) {
		if err := w.Add(d); err != nil {
			s.log.Warn("a directory is not watched; send SIGHUP after a change", "directory", d, "error", err)
		}
	}
}

// unfollow leaves what the world in force is not read from.
func (s *Server) unfollow(w *fsnotify.Watcher) {
	want := watched(s.now().config)
	for _, d := range w.WatchList() {
		if !want[d] {
			_ = w.Remove(d) // gone already is as good
		}
	}
}

// concerns reports whether a changed path can change the world: a file it was read from, anything below a directory it was read
// from, or a link that a mount swaps.
func (s *Server) concerns(path string) bool {
	for _, f := range filesOf(s.now().config) {
		if path == f || filepath.Dir(path) == f || filepath.Dir(path) == filepath.Dir(f) && filepath.Base(path)[0] == '.' {
			return true
		}
	}
	return false
}
