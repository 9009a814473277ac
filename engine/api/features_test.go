package api

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/meta"
	"github.com/varvelog/varve/internal/meta/memmeta"
)

// TestUpdateFeatures raises the feature level of a cluster that is at the first one.
func TestUpdateFeatures(t *testing.T) {
	table := memmeta.New()
	err := table.Commit(t.Context(), "x", meta.Create(meta.Key{PK: "cluster", SK: "info"}, meta.Attrs{"v": int64(1), "id": "x", "slots": int64(testSlots), "level": int64(1)}))
	if err != nil {
		t.Fatal(err)
	}
	s, store := newServerOn(t, table, nil)
	c := serve(t, s, store).dial()
	update := func(version int16, feature string, to int16, way int8, dry bool) *kmsg.UpdateFeaturesResponse {
		t.Helper()
		req := kmsg.NewPtrUpdateFeaturesRequest()
		req.ValidateOnly = dry
		u := kmsg.NewUpdateFeaturesRequestFeatureUpdate()
		u.Feature, u.MaxVersionLevel, u.UpgradeType = feature, to, way
		req.FeatureUpdates = append(req.FeatureUpdates, u)
		return ask[*kmsg.UpdateFeaturesResponse](c, req, version)
	}
	for _, tt := range []struct {
		name    string
		version int16
		feature string
		to      int16
		way     int8
		dry     bool
		want    kafka.ErrorCode
		level   int
	}{
		{"another's feature", 2, "metadata.version", 2, 1, false, kafka.InvalidUpdateVersion, 1},
		{"a level that is not known", 2, levelFeature, catalog.Level + 1, 1, false, kafka.InvalidUpdateVersion, 1},
		{"the wrong way", 2, levelFeature, 2, 3, false, kafka.InvalidUpdateVersion, 1},
		{"to delete it", 0, levelFeature, 0, 0, false, kafka.InvalidUpdateVersion, 1},
		{"asked only", 1, levelFeature, 2, 1, true, kafka.None, 1},
		{"raised", 1, levelFeature, 2, 1, false, kafka.None, 2},
		{"as it is", 0, levelFeature, 2, 0, false, kafka.None, 2},
		{"lowered", 2, levelFeature, 1, 2, false, kafka.InvalidUpdateVersion, 2},
	} {
		resp := update(tt.version, tt.feature, tt.to, tt.way, tt.dry)
		if kafka.ErrorCode(resp.ErrorCode) != tt.want || (resp.ErrorMessage == nil) != (tt.want == kafka.None) || (len(resp.Results) == 1) != (tt.want == kafka.None && tt.version < 2) {
			t.Errorf("%s: %+v", tt.name, resp)
		}
		told := ask[*kmsg.ApiVersionsResponse](c, &kmsg.ApiVersionsRequest{ClientSoftwareName: "x", ClientSoftwareVersion: "1"}, 3)
		if got := told.FinalizedFeatures[0].MaxVersionLevel; int(got) != tt.level {
			t.Errorf("%s: level %d, want %d", tt.name, got, tt.level)
		}
	}
}

// TestACLs: there is no authorizer, and tools are told so as by Apache Kafka, for each rule.
func TestACLs(t *testing.T) {
	c := newRig(t, nil).dial()
	for v := int16(1); v <= 3; v++ {
		d := ask[*kmsg.DescribeACLsResponse](c, kmsg.NewPtrDescribeACLsRequest(), v)
		if kafka.ErrorCode(d.ErrorCode) != kafka.SecurityDisabled || text(d.ErrorMessage) != " No Authorizer is configured on the broker" || len(d.Resources) > 0 {
			t.Errorf("version %d: describe: %+v", v, d)
		}
		create := kmsg.NewPtrCreateACLsRequest()
		create.Creations = make([]kmsg.CreateACLsRequestCreation, 2)
		made := ask[*kmsg.CreateACLsResponse](c, create, v).Results
		for _, row := range made {
			if kafka.ErrorCode(row.ErrorCode) != kafka.SecurityDisabled || text(row.ErrorMessage) != " No Authorizer is configured." {
				t.Errorf("version %d: create: %+v", v, row)
			}
		}
		remove := kmsg.NewPtrDeleteACLsRequest()
		remove.Filters = make([]kmsg.DeleteACLsRequestFilter, 2)
		rows := ask[*kmsg.DeleteACLsResponse](c, remove, v).Results
		for _, row := range rows {
			if kafka.ErrorCode(row.ErrorCode) != kafka.SecurityDisabled || text(row.ErrorMessage) != " No Authorizer is configured." || len(row.MatchingACLs) > 0 {
				t.Errorf("version %d: delete: %+v", v, row)
			}
		}
		if len(made) != 2 || len(rows) != 2 {
			t.Errorf("version %d: %d answers to two rules, %d to two filters", v, len(made), len(rows))
		}
	}
}
