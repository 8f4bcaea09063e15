package dns

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/sluicenet/sluice/dns/autopath"
	"github.com/sluicenet/sluice/dns/forward"
	"github.com/sluicenet/sluice/dns/hosts"
)

// Hosts are names that are answered before all others.
type Hosts struct {
	Entries   []string      // each an address and its names, as a line of hosts(5)
	File      string        // of more such lines; it is read again when it changes
	TTL       time.Duration // by default [hosts.DefaultTTL]; negative: 0
	NoReverse bool          // addresses do not lead to names
}

// readHosts takes in the entries. What is wrong with them is returned for those that
// are given, and logged for those of the file, whose other lines count.
func (s *Server) readHosts() error {
	o := hosts.Options{TTL: s.Hosts.TTL, NoReverse: s.Hosts.NoReverse}
	if _, errs := hosts.New(s.Hosts.Entries, o); len(errs) > 0 {
		return errors.Join(errs...)
	}
	var file []string
	if s.Hosts.File != "" {
		b, err := os.ReadFile(s.Hosts.File)
		if err != nil {
			s.hostsProblem(err)
			s.hostsSum = [32]byte{}
			if s.hosts.Load() != nil {
				return nil // the last that was read stays
			}
		} else if sum := sha256.Sum256(b); sum == s.hostsSum {
			return nil
		} else {
			s.hostsSum = sum
			file = strings.Split(string(b), "\n")
		}
	}
	// Those of the file come first, so that their numbers are those of lines.
	t, errs := hosts.New(slices.Concat(file, s.Hosts.Entries), o)
	if file != nil {
		if more := len(errs) - fewErrors; more > 0 {
			errs = append(errs[:fewErrors], fmt.Errorf("and %d more", more))
		}
		s.hostsProblem(errors.Join(errs...))
	}
	s.hosts.Store(t)
	return nil
}

// fewErrors is how many lines of a file are named that cannot be read.
const fewErrors = 10

func (s *Server) hostsProblem(err error) {
	message := ""
	if err != nil {
		message = err.Error()
	}
	if message != s.hostsError && err != nil {
		s.Log.Warn("dns: entries of hosts left out", "file", s.Hosts.File, "err", err)
	}
	s.hostsError = message
}

// readSearch takes in the search domains that the host adds to those of Pods.
func (s *Server) readSearch() error {
	if !s.Autopath {
		return nil
	}
	search := s.Search
	if search == nil && s.ResolvConf != "" {
		var err error
		if search, err = autopath.Search(s.ResolvConf); err != nil {
			s.Log.Warn("dns: no search domains of the host", "err", err)
		}
	}
	w, err := autopath.New(s.Node, s.planner.Apex(), search)
	if err != nil {
		return err
	}
	s.walker.Store(w)
	return nil
}

// followFiles keeps the entries of hosts and the search domains at what their files
// say.
func (s *Server) followFiles(ctx context.Context) error {
	files := []string{}
	if s.Hosts.File != "" {
		files = append(files, s.Hosts.File)
	}
	if s.Autopath && s.Search == nil && s.ResolvConf != "" {
		files = append(files, s.ResolvConf)
	}
	if len(files) == 0 {
		return nil
	}
	changed := func() {
		names := s.hosts.Load().Len()
		// Only what is given with the options is returned as an error, and that
		// was checked.
		if err := errors.Join(s.readHosts(), s.readSearch()); err != nil {
			s.Log.Error("dns: files not read", "err", err)
		}
		if now := s.hosts.Load().Len(); now != names {
			s.Log.Info("dns: entries of hosts read", "file", s.Hosts.File, "names", now)
		}
	}
	if err := forward.WatchFile(ctx, changed, files[0], files[1:]...); err != nil {
		s.Log.Warn("dns: changes of files are seen late", "files", files, "err", err)
	}
	return nil
}
