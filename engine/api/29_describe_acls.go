package api

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/kafka"
)

// What Apache Kafka without an authorizer says of ACLs (AclApis).
const (
	noAuthorizer         = "No Authorizer is configured."
	noAuthorizerOnBroker = "No Authorizer is configured on the broker"
)

// DescribeAcls (29), versions 1 to 3 (KIP-11): there is no authorizer.
func (s *Server) describeACLs(_ context.Context, r *request) kmsg.Response {
	resp := r.msg.ResponseKind().(*kmsg.DescribeACLsResponse)
	resp.ErrorCode, resp.ErrorMessage = int16(kafka.SecurityDisabled), kmsg.StringPtr(noAuthorizerOnBroker)
	return resp
}
