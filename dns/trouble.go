package dns

import (
	"context"
	"errors"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/model/status"
)

// Upstreams returns why no name outside of the cluster, or none of a zone, can be
// asked for: nil if all can. The cluster's names are answered all the same.
func (s *Server) Upstreams() error {
	var errs []string
	if s.followsResolvConf() && !s.forward.Handles([]byte{0}) {
		why := s.ResolvConf + " names none"
		if p := s.resolvProblem.Load(); p != nil {
			why = *p
		}
		errs = append(errs, "there is no upstream for .: "+why)
	}
	for _, t := range s.forward.Troubles() {
		errs = append(errs, fmt.Sprintf("no upstream for %s answers: %s", t.Zone, strings.Join(t.Failures, "; ")))
	}
	if len(errs) == 0 {
		return nil
	}
	return errors.New(strings.Join(errs, "; "))
}

// followUpstreams keeps what is said of the node at what [Server.Upstreams] says.
func (s *Server) followUpstreams(ctx context.Context) error {
	key := model.Key{Kind: model.KindNode, Name: s.Node}
	was := false
	for {
		err := s.Upstreams()
		switch {
		case err != nil && !was:
			s.Log.Warn("dns: names outside of the cluster are not answered", "err", err)
		case err == nil && was:
			s.Log.Info("dns: names outside of the cluster are answered again")
		}
		was = err != nil
		switch {
		case s.Status == nil || s.Node == "":
		case err == nil:
			s.Status.Clear("dns", key)
		default:
			s.Status.Set("dns", key, status.Report{Conditions: []metav1.Condition{{
				Type: "UpstreamsAnswer", Status: metav1.ConditionFalse, Reason: "NoAnswer", Message: err.Error(),
			}}})
		}
		select {
		case <-s.forward.Health():
		case <-ctx.Done():
			return nil
		}
	}
}
