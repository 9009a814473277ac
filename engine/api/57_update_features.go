package api

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
)

// upgradeOnly is the way of an update that raises (FeatureUpdate.UpgradeType, version 1).
const upgradeOnly = 1

// UpdateFeatures (57), versions 0 to 2: raises the cluster's feature level, the
// one feature there is (KIP-584), as `varve cluster upgrade` does; v1 names the way and
// may only ask (KIP-778), v2 has no results by feature. As in Kafka all updates are made or none,
// and why not is said for all together.
func (s *Server) updateFeatures(ctx context.Context, r *request) kmsg.Response {
	req := r.msg.(*kmsg.UpdateFeaturesRequest)
	resp := req.ResponseKind().(*kmsg.UpdateFeaturesResponse)
	ctx, cancel := adminTimeout(ctx, req.TimeoutMillis)
	defer cancel()
	if resp.ErrorCode, resp.ErrorMessage = told(s.update(ctx, req)); resp.ErrorCode != 0 || r.Version >= 2 {
		return resp
	}
	for i := range req.FeatureUpdates {
		row := kmsg.NewUpdateFeaturesResponseResult()
		row.Feature = req.FeatureUpdates[i].Feature
		resp.Results = append(resp.Results, row)
	}
	return resp
}

// update makes the updates of a request, if it makes any.
func (s *Server) update(ctx context.Context, req *kmsg.UpdateFeaturesRequest) error {
	if err := s.o.Catalog.Refresh(ctx); err != nil {
		return err
	}
	now := s.o.Catalog.Level()
	to := now
	for i := range req.FeatureUpdates {
		u := &req.FeatureUpdates[i]
		if err := s.checkFeature(u, req.Version, now); err != nil {
			return err
		}
		to = int(u.MaxVersionLevel)
	}
	if to == now || req.ValidateOnly {
		return nil
	}
	if err := s.o.Catalog.RaiseLevel(ctx, to); errors.Is(err, catalog.ErrTooOld) { // one that has just come
		return refuse(kafka.InvalidUpdateVersion, "%v", err)
	} else if err != nil {
		return err
	}
	return s.everywhere(ctx, true)
}

// checkFeature tells what is wrong with an update of a cluster at level now.
func (s *Server) checkFeature(u *kmsg.UpdateFeaturesRequestFeatureUpdate, version int16, now int) error {
	wrong := func(why string, args ...any) error {
		return refuse(kafka.InvalidUpdateVersion, "The update failed for all features since the following feature had an error: Invalid update version %d for feature %s. %s",
			u.MaxVersionLevel, u.Feature, fmt.Sprintf(why, args...))
	}
	to := int(u.MaxVersionLevel)
	switch {
	case u.Feature != levelFeature:
		return wrong("There is no such feature here.")
	case to < now:
		return wrong("A level is never lowered.")
	case to > catalog.Level:
		return wrong("The broker that was asked does not know it.")
	case version >= 1 && to > now && u.UpgradeType != upgradeOnly:
		return wrong("Can't upgrade with an upgrade type for downgrades.")
	}
	if behind := s.o.Catalog.Members().Behind(to); len(behind) > 0 {
		names := make([]int32, len(behind))
		for i, m := range behind {
			names[i] = m.ID.Broker
		}
		return wrong("Brokers %v do not work at it.", names)
	}
	return nil
}
