package main

import (
	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsec2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslogs"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"
)

// network is where the brokers are: isolated subnets, one a zone, without any
// way in from the internet or out to it. Records go through the gateway
// endpoints, which cost nothing; images and logs through interface endpoints.
type network struct {
	vpc     awsec2.Vpc
	brokers awsec2.SecurityGroup
	entry   awsec2.SecurityGroup // of the load balancer
}

// Ports of a broker.
const (
	kafkaPort = 9092
	adminPort = 9644 // /readyz, /metrics
)

func newNetwork(scope constructs.Construct, c Config) network {
	scope = part(scope, "Network")
	var zones []*string
	for i := range c.Zones {
		zones = append(zones, awscdk.Fn_Select(jsii.Number(i), awscdk.Fn_GetAzs(nil)))
	}
	vpc := awsec2.NewVpc(scope, jsii.String("Vpc"), &awsec2.VpcProps{
		IpAddresses:       awsec2.IpAddresses_Cidr(jsii.String(c.Cidr)),
		AvailabilityZones: &zones,
		NatGateways:       jsii.Number(0),
		SubnetConfiguration: &[]*awsec2.SubnetConfiguration{{
			Name: jsii.String("brokers"), SubnetType: awsec2.SubnetType_PRIVATE_ISOLATED, CidrMask: jsii.Number(20),
		}},
		GatewayEndpoints: &map[string]*awsec2.GatewayVpcEndpointOptions{
			"S3":       {Service: awsec2.GatewayVpcEndpointAwsService_S3()},
			"DynamoDb": {Service: awsec2.GatewayVpcEndpointAwsService_DYNAMODB()},
		},
	})
	n := network{
		vpc:     vpc,
		brokers: securityGroup(scope, vpc, "BrokerGroup", "Varve brokers"),
		entry:   securityGroup(scope, vpc, "EntryGroup", "Varve bootstrap address"),
	}
	n.open(c)
	n.endpoints(scope)
	logs := awslogs.NewLogGroup(scope, jsii.String("Rejected"), &awslogs.LogGroupProps{
		Retention: logDays(c), RemovalPolicy: awscdk.RemovalPolicy_DESTROY,
	})
	vpc.AddFlowLog(jsii.String("Flow"), &awsec2.FlowLogOptions{
		Destination: awsec2.FlowLogDestination_ToCloudWatchLogs(logs, nil), TrafficType: awsec2.FlowLogTrafficType_REJECT,
	})
	return n
}

func securityGroup(scope constructs.Construct, vpc awsec2.Vpc, id, description string) awsec2.SecurityGroup {
	return awsec2.NewSecurityGroup(scope, jsii.String(id), &awsec2.SecurityGroupProps{
		Vpc: vpc, Description: jsii.String(description), AllowAllOutbound: jsii.Bool(true),
	})
}

// open allows Kafka from inside the VPC, and the health check from the load balancer.
func (n network) open(c Config) {
	inside := awsec2.Peer_Ipv4(jsii.String(c.Cidr))
	kafka, admin := awsec2.Port_Tcp(jsii.Number(kafkaPort)), awsec2.Port_Tcp(jsii.Number(adminPort))
	n.entry.AddIngressRule(inside, kafka, jsii.String("clients in the VPC"), nil)
	n.brokers.AddIngressRule(inside, kafka, jsii.String("clients in the VPC, and other brokers"), nil)
	n.brokers.AddIngressRule(n.entry, kafka, jsii.String("bootstrap"), nil)
	n.brokers.AddIngressRule(n.entry, admin, jsii.String("health check"), nil)
}

// endpoints let Fargate fetch the image and write logs.
func (n network) endpoints(scope constructs.Construct) {
	group := securityGroup(scope, n.vpc, "EndpointGroup", "AWS APIs for Varve brokers")
	group.AddIngressRule(n.brokers, awsec2.Port_Tcp(jsii.Number(443)), jsii.String("brokers"), nil)
	for id, service := range map[string]awsec2.InterfaceVpcEndpointAwsService{
		"EcrApi": awsec2.InterfaceVpcEndpointAwsService_ECR(),
		"EcrDkr": awsec2.InterfaceVpcEndpointAwsService_ECR_DOCKER(),
		"Logs":   awsec2.InterfaceVpcEndpointAwsService_CLOUDWATCH_LOGS(),
	} {
		n.vpc.AddInterfaceEndpoint(jsii.String(id), &awsec2.InterfaceVpcEndpointOptions{
			Service: service, SecurityGroups: &[]awsec2.ISecurityGroup{group}, Open: jsii.Bool(false), PrivateDnsEnabled: jsii.Bool(true),
		})
	}
}
