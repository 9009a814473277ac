package main

import (
	"fmt"
	"maps"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsapplicationautoscaling"
	"github.com/aws/aws-cdk-go/awscdk/v2/awscloudwatch"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsec2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsecs"
	"github.com/aws/aws-cdk-go/awscdk/v2/awselasticloadbalancingv2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslogs"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"
)

// brokers are a Fargate service. A task advertises its private address and is
// of the rack of its zone; the load balancer is only for the first connection.
type brokers struct {
	cluster awsecs.Cluster
	service awsecs.FargateService
	entry   awselasticloadbalancingv2.NetworkLoadBalancer
	targets awselasticloadbalancingv2.NetworkTargetGroup
	logs    awslogs.LogGroup
}

// What a broker is given to leave: Fargate kills it stopSeconds after the stop
// signal, and it has drained before that.
const (
	stopSeconds = 120
	cacheDir    = "/var/lib/varve"
)

func newBrokers(scope constructs.Construct, c Config, n network, s storage, img image) brokers {
	scope = part(scope, "Brokers")
	var b brokers
	b.logs = awslogs.NewLogGroup(scope, jsii.String("Logs"), &awslogs.LogGroupProps{
		Retention: logDays(c), RemovalPolicy: awscdk.RemovalPolicy_DESTROY,
	})
	b.cluster = awsecs.NewCluster(scope, jsii.String("Cluster"), &awsecs.ClusterProps{
		Vpc: n.vpc, ContainerInsightsV2: awsecs.ContainerInsights_ENABLED,
	})
	task := b.task(scope, c, s, img)
	b.service = awsecs.NewFargateService(scope, jsii.String("Service"), &awsecs.FargateServiceProps{
		Cluster: b.cluster, TaskDefinition: task,
		SecurityGroups:         &[]awsec2.ISecurityGroup{n.brokers},
		VpcSubnets:             &awsec2.SubnetSelection{SubnetType: awsec2.SubnetType_PRIVATE_ISOLATED},
		AssignPublicIp:         jsii.Bool(false),
		MinHealthyPercent:      jsii.Number(100),
		MaxHealthyPercent:      jsii.Number(c.maxHealthyPercent()),
		CircuitBreaker:         &awsecs.DeploymentCircuitBreaker{Rollback: jsii.Bool(true)},
		HealthCheckGracePeriod: awscdk.Duration_Seconds(jsii.Number(180)),
		PropagateTags:          awsecs.PropagatedTagSource_SERVICE,
		EnableECSManagedTags:   jsii.Bool(true),
	})
	b.service.Node().AddDependency(img.pushed)
	b.balance(scope, n)
	b.scale(c)
	output(scope, "Bootstrap", jsii.String(fmt.Sprintf("%s:%d", *b.entry.LoadBalancerDnsName(), kafkaPort)), "bootstrap.servers, from inside the VPC")
	return b
}

// task is one broker: it knows its zone, address and id from the metadata of the task.
func (b *brokers) task(scope constructs.Construct, c Config, s storage, img image) awsecs.FargateTaskDefinition {
	role := awsiam.NewRole(scope, jsii.String("Role"), &awsiam.RoleProps{
		AssumedBy: awsiam.NewServicePrincipal(jsii.String("ecs-tasks.amazonaws.com"), nil), Description: jsii.String("a Varve broker"),
	})
	s.grant(role, map[string][]string{"": {"s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"}})
	task := awsecs.NewFargateTaskDefinition(scope, jsii.String("Task"), &awsecs.FargateTaskDefinitionProps{
		Cpu: jsii.Number(c.CPU), MemoryLimitMiB: jsii.Number(c.MemoryMiB), EphemeralStorageGiB: jsii.Number(c.DiskGiB), TaskRole: role,
		RuntimePlatform: &awsecs.RuntimePlatform{
			CpuArchitecture: cpu(c), OperatingSystemFamily: awsecs.OperatingSystemFamily_LINUX(),
		},
		Volumes: &[]*awsecs.Volume{{Name: jsii.String("cache")}},
	})
	container := task.AddContainer(jsii.String("broker"), &awsecs.ContainerDefinitionOptions{
		Image:                  img.container,
		Command:                jsii.Strings(brokerCommand(c, s)...),
		PortMappings:           &[]*awsecs.PortMapping{{ContainerPort: jsii.Number(kafkaPort)}, {ContainerPort: jsii.Number(adminPort)}},
		StopTimeout:            awscdk.Duration_Seconds(jsii.Number(stopSeconds)),
		ReadonlyRootFilesystem: jsii.Bool(true),
		Ulimits:                &[]*awsecs.Ulimit{{Name: awsecs.UlimitName_NOFILE, SoftLimit: jsii.Number(65535), HardLimit: jsii.Number(65535)}},
		Logging:                awsecs.LogDriver_AwsLogs(&awsecs.AwsLogDriverProps{LogGroup: b.logs, StreamPrefix: jsii.String("broker")}),
	})
	container.AddMountPoints(&awsecs.MountPoint{
		ContainerPath: jsii.String(cacheDir), SourceVolume: jsii.String("cache"), ReadOnly: jsii.Bool(false),
	})
	suppress(task, "AwsSolutions-IAM5", "ecr:GetAuthorizationToken has no resource; all else of the execution role is held to the repository and the log group")
	return task
}

func cpu(c Config) awsecs.CpuArchitecture {
	if c.Arch == "amd64" {
		return awsecs.CpuArchitecture_X86_64()
	}
	return awsecs.CpuArchitecture_ARM64()
}

func brokerCommand(c Config, s storage) []string {
	args := []string{
		"broker", "--fargate", "--bucket", *s.bucket.BucketName(), "--table", *s.table.TableName(), "--data", cacheDir,
		"--listen", fmt.Sprintf("0.0.0.0:%d", kafkaPort), "--http", fmt.Sprintf("0.0.0.0:%d", adminPort),
	}
	if c.Prefix != "" {
		args = append(args, "--prefix", c.Prefix)
	}
	for _, name := range sorted(brokerSettings(c)) {
		args = append(args, "--config", name+"="+brokerSettings(c)[name])
	}
	return args
}

// brokerSettings are the settings that were asked for, and the sizes of the
// caches: a quarter of the memory, and what the image leaves of the disk.
func brokerSettings(c Config) map[string]string {
	all := map[string]string{
		"cache.ram.bytes":  fmt.Sprint(int64(c.MemoryMiB) << 20 / 4),
		"cache.disk.bytes": fmt.Sprint(int64(c.DiskGiB-5) << 30),
	}
	maps.Copy(all, c.Settings)
	return all
}

// balance puts the bootstrap address before the brokers that are ready.
func (b *brokers) balance(scope constructs.Construct, n network) {
	b.entry = awselasticloadbalancingv2.NewNetworkLoadBalancer(scope, jsii.String("Entry"), &awselasticloadbalancingv2.NetworkLoadBalancerProps{
		Vpc: n.vpc, InternetFacing: jsii.Bool(false), CrossZoneEnabled: jsii.Bool(true),
		VpcSubnets:     &awsec2.SubnetSelection{SubnetType: awsec2.SubnetType_PRIVATE_ISOLATED},
		SecurityGroups: &[]awsec2.ISecurityGroup{n.entry},
	})
	suppress(b.entry, "AwsSolutions-ELB2", "a network load balancer logs TLS connections only, and this one has none")
	b.targets = b.entry.AddListener(jsii.String("Kafka"), &awselasticloadbalancingv2.BaseNetworkListenerProps{Port: jsii.Number(kafkaPort)}).
		AddTargets(jsii.String("Brokers"), &awselasticloadbalancingv2.AddNetworkTargetsProps{
			Port: jsii.Number(kafkaPort),
			Targets: &[]awselasticloadbalancingv2.INetworkLoadBalancerTarget{b.service.LoadBalancerTarget(&awsecs.LoadBalancerTargetOptions{
				ContainerName: jsii.String("broker"), ContainerPort: jsii.Number(kafkaPort),
			})},
			DeregistrationDelay: awscdk.Duration_Seconds(jsii.Number(0)),
			HealthCheck: &awselasticloadbalancingv2.HealthCheck{
				Protocol: awselasticloadbalancingv2.Protocol_HTTP, Port: jsii.String(fmt.Sprint(adminPort)), Path: jsii.String("/readyz"),
				Interval: awscdk.Duration_Seconds(jsii.Number(10)), Timeout: awscdk.Duration_Seconds(jsii.Number(5)),
				HealthyThresholdCount: jsii.Number(2), UnhealthyThresholdCount: jsii.Number(3),
			},
		})
}

// scale adds a broker when they are busy, and takes away one at a time: the
// next only when the one before has drained and its slots have settled.
func (b *brokers) scale(c Config) {
	if c.MaxBrokers == c.Brokers {
		b.service.AutoScaleTaskCount(&awsapplicationautoscaling.EnableScalingProps{MinCapacity: jsii.Number(c.Brokers), MaxCapacity: jsii.Number(c.MaxBrokers)})
		return
	}
	b.service.AutoScaleTaskCount(&awsapplicationautoscaling.EnableScalingProps{
		MinCapacity: jsii.Number(c.Brokers), MaxCapacity: jsii.Number(c.MaxBrokers),
	}).ScaleOnMetric(jsii.String("Cpu"), &awsapplicationautoscaling.BasicStepScalingPolicyProps{
		Metric: b.service.MetricCpuUtilization(&awscloudwatch.MetricOptions{Period: minute()}),
		ScalingSteps: &[]*awsapplicationautoscaling.ScalingInterval{
			{Upper: jsii.Number(20), Change: jsii.Number(-1)},
			{Lower: jsii.Number(60), Change: jsii.Number(1)},
			{Lower: jsii.Number(80), Change: jsii.Number(2)},
		},
		Cooldown:          awscdk.Duration_Seconds(jsii.Number(2*stopSeconds + 60)),
		EvaluationPeriods: jsii.Number(5),
		DatapointsToAlarm: jsii.Number(5),
	})
}
