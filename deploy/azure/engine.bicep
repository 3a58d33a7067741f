// Publishes on a machine of its own, which is there only while it works: a Container Apps job on a dedicated profile of 8 cores.
// After main.bicep, in its resource group. Docs: docs/engine.md. What engine.json deploys.
// az deployment group create --resource-group models --template-file deploy/azure/engine.bicep --parameters account=ACCOUNT \
//   image=REGISTRY/modelsync-server:0.1.0 registry=REGISTRY keys=@keys/keys.json model=NAME source=azureml:NAME:VERSION
// az containerapp job start --resource-group models --name modelsync-publish

@description('Name of the storage account that main.bicep made.')
param account string

@description('An image with modelsync-server[azure,dask] and securesystemslib[azurekms].')
param image string

@description('Server of the registry that the image is pulled from; the identity needs AcrPull there.')
param registry string

@description('keys.json of a key folder whose online keys lie in a vault: addresses, no key.')
@secure()
param keys string

@description('The model that is published.')
param model string

@description('Where it is kept, as of modelsync publish: azureml:NAME:VERSION, mlflow:models:/NAME@ALIAS, ...')
param source string

param location string = resourceGroup().location

resource publisher 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' existing = {
  name: 'modelsync-publisher'
}

resource place 'Microsoft.App/managedEnvironments@2024-03-01' = {
  name: 'modelsync-engine'
  location: location
  properties: {
    workloadProfiles: [
      {
        name: 'engine'
        workloadProfileType: 'D8'
        minimumCount: 0
        maximumCount: 1
      }
    ]
  }
}

resource job 'Microsoft.App/jobs@2024-03-01' = {
  name: 'modelsync-publish'
  location: location
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${publisher.id}': {}
    }
  }
  properties: {
    environmentId: place.id
    workloadProfileName: 'engine'
    configuration: {
      triggerType: 'Manual'
      manualTriggerConfig: {
        parallelism: 1
        replicaCompletionCount: 1
      }
      replicaTimeout: 86400
      replicaRetryLimit: 3 // what one attempt did the next does not do again
      registries: [
        {
          server: registry
          identity: publisher.id
        }
      ]
      secrets: [
        {
          name: 'keys'
          value: keys
        }
      ]
    }
    template: {
      containers: [
        {
          name: 'publish'
          image: image
          command: [
            'modelsync'
          ]
          args: [
            'publish'
            'azblob://${account}/models'
            model
            source
            '--keys'
            '/keys'
            '--engine'
            'dask'
            '--workers'
            '7'
          ]
          env: [
            {
              name: 'AZURE_CLIENT_ID'
              value: publisher.properties.clientId
            }
            {
              name: 'MODELSYNC_PROGRESS'
              value: 'json'
            }
            {
              name: 'TMPDIR'
              value: '/scratch'
            }
          ]
          resources: {
            cpu: 7
            memory: '26Gi'
          }
          volumeMounts: [
            {
              volumeName: 'keys'
              mountPath: '/keys'
            }
            {
              volumeName: 'scratch'
              mountPath: '/scratch'
            }
          ]
        }
      ]
      volumes: [
        {
          name: 'keys'
          storageType: 'Secret'
          secrets: [
            {
              secretRef: 'keys'
              path: 'keys.json'
            }
          ]
        }
        {
          name: 'scratch'
          storageType: 'EmptyDir'
        }
      ]
    }
  }
}

output job string = job.name
