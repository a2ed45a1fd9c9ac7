package agent

import (
	"warren/api"
	"warren/netpol"
)

// whoTalked returns what remembers who talked to whom, for those who write
// policies: nil outside of clusters, and where nothing is looked at that tells.
func (s *self) whoTalked() *api.PolicyCollector {
	if s.member == nil || s.net == nil && !s.cfg.watchesConnections() {
		return nil
	}
	return api.NewPolicyCollector(api.PolicyConfig{Flows: s.net != nil, World: func() (*netpol.World, error) {
		w := s.world()
		if w == nil {
			return nil, api.Unavailable("the cluster has not told yet which policies there are")
		}
		return w, nil
	}})
}
